"""Paths as somebody typed them."""

import os
from pathlib import Path

from labkit.errors import InputError, printable, reason


def typed(text: str | Path) -> Path:
    """The path, `~` understood; nothing need be there.

    Raises InputError where the system takes it for no path at all (too long, of an unknown user), or does not let us
    look: asked any later, it would end in an error that names neither.
    """
    try:
        path = Path(text).expanduser()
        str(path).encode()  # what is no text can be opened, but not printed
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, RuntimeError, ValueError) as error:
        name = printable(text)
        name = name if len(name) <= 80 else name[:77] + "..."
        raise InputError(f"the path {name} cannot be used ({reason(error)}); name another") from None
    return path
