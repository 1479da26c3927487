"""The exceptions whose messages are for the user, and helpers for these messages."""

import contextlib
from collections.abc import Iterator


class UsageError(Exception):
    """An error of the user, such as a wrong flag.

    The message is one line: what is wrong, where, and what is valid.

    The program prints its own name and the message, and exits with status 2.
    """

    def __init__(self, message: str):
        super().__init__(" ".join(line.strip() for line in message.splitlines()))


class StorageError(Exception):
    """An object store, or another place for copies, that can't be read or written.

    The message is one line: the place and the reason. If nothing handles it, the program prints its
    own name and the message, and exits with status 1.
    """


def quote(text: str) -> str:
    """Return `text` in quotation marks, shortened to 80 characters."""
    return repr(text if len(text) <= 80 else f"{text[:77]}...")


@contextlib.contextmanager
def blaming(where: str) -> Iterator[None]:
    """Turn whatever goes wrong while the user's input is read into a `UsageError` that begins with
    `where`.

    where: the place of the input, such as a file and a line, or a setting.

    Errors that are no `UsageError`, such as those of a decoder or of a template, become one; its
    message ends with theirs. A lack of memory is not the input's mistake and stays what it is.
    """
    try:
        yield
    except (UsageError, MemoryError):
        raise
    except Exception as error:
        what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise UsageError(f"{where}: {what}") from error
