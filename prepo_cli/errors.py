"""Errors that the command line prints as one line."""


class UsageError(Exception):
    """Bad input or usage: exit code 2. The message says what is wrong, where, and how to fix it."""


class RunError(Exception):
    """A failure at run time that is not a defect of prepo: exit code 1."""
