"""What holds for all tests: the same examples however busy the machine is, and one thread for each worker."""

import os
import signal

from hypothesis import settings

if "PYTEST_XDIST_WORKER" in os.environ:  # before torch is imported: workers share the cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# Processes inherit ignored signals: of nohup, or of a shell that runs the tests in the background.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

settings.register_profile("prepo", deadline=None, derandomize=True)
settings.load_profile("prepo")
