"""Errors that the command line prints as one line."""

import errno

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""The disk, a quota, or a limit on a file's size is exhausted."""
FULL = "No space left on device"
FULL_BYTES = 2**20
"""With less space left than this, a failed write is blamed on the full disk, whatever its error says."""


class UsageError(Exception):
    """Bad input or usage: exit code 2. The message says what is wrong, where, and how to fix it."""


class RunError(Exception):
    """A failure at run time that is not a defect of prepo: exit code 1."""


def one_line(error: BaseException) -> str:
    """The message of any exception on one line, at most 300 characters; its type if it has no message.

    >>> one_line(ValueError("two  spaces")), one_line(KeyboardInterrupt())
    ('two spaces', 'KeyboardInterrupt')
    """
    return " ".join(str(error).split())[:300] or type(error).__name__
