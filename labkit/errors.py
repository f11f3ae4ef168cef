"""The one error a user can mend: bad input, said in a sentence that tells what to do."""

import os


class InputError(ValueError):
    """Input that the lab cannot use. The message is one sentence written for the person who typed it.

    `python -m labkit` prints it without a traceback and exits with status 2.
    """


def printable(text: object) -> str:
    """Somebody else's text as a line of ours: a name in a file may hold line ends, or what terminals obey."""
    told = str(text)
    return told if told.isprintable() else ascii(told)


def reason(error: Exception) -> str:
    """What a library or the system says of an error, in a line."""
    code = getattr(error, "errno", None)
    lines = (os.strerror(code) if isinstance(code, int) else str(error)).strip().splitlines()
    return printable(lines[0]) if lines else type(error).__name__
