"""The exception for errors that the user can fix."""


class UsageError(Exception):
    """An error of the user, such as a wrong flag.

    The message is one line: what is wrong, where, and what is valid.

    The program prints its own name and the message, and exits with status 2.
    """

    def __init__(self, message: str):
        super().__init__(" ".join(line.strip() for line in message.splitlines()))
