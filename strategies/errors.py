"""The error raised on bad input or a broken contract; the command line prints its message as one line."""


class StrategyError(ValueError):
    """A bad name, bad parameter or broken contract. The message says what is wrong, where, and how to fix it."""
