"""The two roots of every error: the user's fault, and ours."""


class UserError(Exception):
    """Something the user gave is wrong; the message says what, where, and what to do. Exit code 2."""


class CtdError(Exception):
    """Something of ours, or an engine under us, failed. Exit code 1."""
