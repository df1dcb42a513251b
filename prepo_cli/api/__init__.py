"""The Python API, which the commands call too; one function per module."""
