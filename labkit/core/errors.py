"""The one error a user can mend: bad input, said in a sentence that tells what to do."""


class InputError(ValueError):
    """Input that the lab cannot use. The message is one sentence written for the person who typed it.

    `python -m labkit` prints it without a traceback and exits with status 2.
    """
