"""Errors that are shown to the user in one line: what is wrong, where, and what to do."""

INTERRUPTED, BROKEN_PIPE, TERMINATED = 130, 141, 143  # exit statuses of Ctrl-C, SIGPIPE and SIGTERM: 128 + signal


class InputError(Exception):
    """An error that the user can fix, in a setting, a file or the machine; the message is self-contained."""


class DivergedError(InputError):
    """An error raised when the loss becomes NaN or infinite. Earlier checkpoints remain valid."""
