"""The one exception for what a user can get wrong."""


class UsageError(Exception):
    """A mistake of the user: one line that says what is wrong, where, and the nearest valid thing.

    A verb prints it after its own name and exits with status 2.
    """

    def __init__(self, message: str):
        super().__init__(" ".join(line.strip() for line in message.splitlines()))
