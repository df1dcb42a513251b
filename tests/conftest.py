"""Property tests try the same examples on every machine, however busy it is."""

from hypothesis import settings

settings.register_profile("prepo", deadline=None, derandomize=True)
settings.load_profile("prepo")
