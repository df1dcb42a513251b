"""The trainer: the loop and its parts."""
