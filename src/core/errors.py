"""The errors that are told in one line: what was wrong, where, and what to do."""


class InputError(Exception):
    """A setting, a file or a machine that the user can put right; the message is the whole story."""


class DivergedError(InputError):
    """The loss became NaN or infinite; what was kept before that is good."""
