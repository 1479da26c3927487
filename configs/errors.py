"""The exception for all mistakes of a user."""


class UsageError(Exception):
    """A mistake of the user. The message is one line: what is wrong, where, and what is valid.

    A command prints the message after its own name, and exits with status 2.
    """

    def __init__(self, message: str):
        super().__init__(" ".join(line.strip() for line in message.splitlines()))
