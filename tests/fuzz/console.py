"""prepo's command line in this process, for thousands of cases."""

from __future__ import annotations

import os
import sys
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, settings

from prepo_cli.main import main

fuzz = settings(
    max_examples=int(os.environ.get("PREPO_CASES", "100")),
    deadline=timedelta(seconds=5),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
"""No case may take longer than five seconds."""


def answer(arguments: list[str], capfd: pytest.CaptureFixture[str]) -> int:
    """The exit code, 0 or 2; bad input is answered with one line."""
    capfd.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    sys.stdout.flush()
    printed = capfd.readouterr()
    code = ended.value.code or 0
    assert code in (0, 2), (code, printed.err)
    assert "Traceback" not in printed.err
    if code == 2:
        (line,) = [line for line in printed.err.split("\n") if line]
        assert line.startswith("prepo: "), line
        assert line.isprintable(), line
    return int(code)
