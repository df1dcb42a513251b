"""The ratios that `make bench` writes: how they are computed, and that page, results and benchmarks agree."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import __main__ as bench
from benchmarks import paired
from benchmarks.paired import Claim, Ratio


def test_a_ratio_is_taken_in_each_round() -> None:
    rounds = [{"a": {"seconds": a}, "b": {"seconds": b}} for a, b in [(1.0, 2.0), (9.0, 10.0), (3.0, 4.0)]]
    assert Ratio.of(Claim("name", "a", "b", limit=0.8), rounds) == Ratio(0.75, 0.5, 0.9, 0.8)


def test_variants_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = list[str]()

    def measure(name: str, variant: str, size: str) -> dict[str, float]:
        measured.append(variant)
        return {"seconds": 1.0, "bytes": 2.0}

    monkeypatch.setattr(paired, "_in_own_process", measure)
    found = paired.ratios("output_matrix", "quick", 2)
    assert measured == ["told", "naive", "untold", "untold", "naive", "told"]
    assert [ratio.median for ratio in found.values()] == [1.0] * 3


def test_a_measurement_is_of_the_work_alone() -> None:
    kept = bytearray(200 * 2**20)
    found = paired.timed(lambda: len(bytearray(100 * 2**20)))
    assert 90 * 2**20 < found["bytes"] < 130 * 2**20
    assert found["seconds"] > 0 and len(kept) > found["bytes"]


def test_a_check_names_what_got_worse(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name, worst = bench.NAMES[0], "slow"
    before = {"slow": 0.5, "fast": 0.25}
    kept = tmp_path / "results.json"
    kept.write_text(json.dumps({name: {"quick": {claim: {"median": value} for claim, value in before.items()}}}))
    monkeypatch.setattr(bench, "RESULTS", kept)

    def measured(name: str, size: str, rounds: int) -> dict[str, Ratio]:
        return {c: Ratio(*[value * (1.3 if c == worst else 1.1)] * 3, None) for c, value in before.items()}

    monkeypatch.setattr(bench, "ratios", measured)
    bench.check([name], 1)
    told = capsys.readouterr().out.splitlines()
    assert told[-1] == f"{worst}: {1.3 * before[worst]:.2f}, was {before[worst]:.2f}"
    assert not any(line.startswith(tuple(before)) and ", was " in line for line in told[:-1])
