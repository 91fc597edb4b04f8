"""The one exception whose message is meant for the user."""


class UserError(Exception):
    """A failure its reader can mend.

    The message is one line: the thing, the place, what was found, what was expected, the command or step that mends it. Entry points print it
    without a traceback and exit non-zero.
    """


class PassingError(Exception):
    """A failure that a later run may not meet again (I/O, memory); the row or shard under way stays undone and the task incomplete."""
