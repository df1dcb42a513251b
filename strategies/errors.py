"""The one error that strategies raise on bad input or a broken contract; the command line prints it as one line."""


class StrategyError(ValueError):
    """Bad name, bad parameter or broken contract. The message says what, where and the cure."""
