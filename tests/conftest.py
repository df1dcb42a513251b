"""What holds for all tests: the same examples however busy the machine is, and one thread for each worker."""

import os

from hypothesis import settings

if "PYTEST_XDIST_WORKER" in os.environ:  # before torch is imported: workers share the cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")

settings.register_profile("prepo", deadline=None, derandomize=True)
settings.load_profile("prepo")
