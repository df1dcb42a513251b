"""Fixtures of other folders."""

from tests.engines.conftest import fake

__all__ = ["fake"]
