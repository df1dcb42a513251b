"""Fixtures of other folders."""

from tests.engines.conftest import fake, short_pauses

__all__ = ["fake", "short_pauses"]
