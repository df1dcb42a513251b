"""The ratios that `make bench` writes: how they are computed, and that page, results and benchmarks agree."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import __main__ as bench
from benchmarks import generation, growth, output_matrix, page, paired, schedule, turns, update
from benchmarks.against_trl import in_turn
from benchmarks.paired import Claim, Ratio
from strategies.selectors.random import Random
from strategies.types import StepContext
from tests.fakes import FakeProbe, FakeSource, make_prompts, make_run

Measured = dict[str, Ratio]


def test_a_ratio_is_taken_in_each_round() -> None:
    rounds = [{"a": {"seconds": a}, "b": {"seconds": b}} for a, b in [(1.0, 2.0), (9.0, 10.0), (3.0, 4.0)]]
    assert Ratio.of(Claim("name", "a", "b", limit=0.8), rounds) == Ratio(0.75, 0.5, 0.9, 0.8)


def test_without_a_base_it_is_an_amount() -> None:
    rounds = [{"a": {"seconds": 1.0, "bytes": amount}} for amount in (2e9, 3e9, 1e9)]
    assert Ratio.of(Claim("name", "a", None, "bytes"), rounds) == Ratio(2e9, 1e9, 3e9, None, "bytes")


def test_benchmarks_say_what_they_measure() -> None:
    modules = [paired.benchmark(name) for name in bench.NAMES]
    names = [claim.name for module in modules for claim in module.CLAIMS]
    assert len(set(names)) == len(names)
    for module in modules:
        assert module.CLAIMS and hasattr(module, "measure") != hasattr(module, "steps")
        assert {"full"} <= set(module.SIZES) <= {"full", "quick", "large"}
        for claim in module.CLAIMS:
            assert claim.variant != claim.base and (claim.limit is None or claim.limit > 0)
            assert claim.unit in ("", "bytes", "tokens/s") and (claim.base is None) == bool(claim.unit)
    assert set(bench.NEEDS_TRL) < set(bench.NAMES) and bench.GROWTH not in bench.NAMES
    assert not any("quick" in paired.benchmark(name).SIZES for name in bench.NEEDS_TRL), "CI checks the quick ones"


def test_variants_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = list[str]()

    def measure(name: str, size: str, variants: Sequence[str], note: Any) -> list[dict[str, float]]:
        asked.extend(variants)
        return [{"seconds": float(number), "bytes": 2.0} for number, _ in enumerate(variants, start=1)]

    monkeypatch.setattr(paired, "in_own_processes", measure)
    found = paired.ratios("output_matrix", "quick", 2)
    assert asked == ["told", "naive", "untold", "untold", "naive", "told"]
    time, memory, untold = found.values()
    assert (time.low, time.high, memory.median) == (1 / 2, 6 / 5, 1.0)
    assert (untold.low, untold.high) == (4 / 5, 3 / 2)


def test_each_variant_has_its_own_process_and_may_print(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def measure(variant: str, doubled: int) -> dict[str, float]:
        print("progress")
        return {"seconds": float(os.getpid()), "bytes": 2.0 * doubled * int(variant)}

    fake = SimpleNamespace(SIZES={"full": {"doubled": 10}}, measure=measure)
    monkeypatch.setattr(paired, "benchmark", lambda name: fake)
    monkeypatch.setattr(sys, "argv", ["paired", "any", "full", "1", "2"])
    paired.main()
    found = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [f["bytes"] for f in found] == [20.0, 40.0]
    assert len({os.getpid(), *(f["seconds"] for f in found)}) == 3


def test_a_variant_that_fails_ends_the_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = SimpleNamespace(SIZES={"full": {}}, measure=lambda variant: {"seconds": 1 / int(variant)})
    monkeypatch.setattr(paired, "benchmark", lambda name: fake)
    monkeypatch.setattr(sys, "argv", ["paired", "any", "full", "1", "0", "1"])
    with pytest.raises(SystemExit, match="any, full: 0 failed"):
        paired.main()


def test_steps_take_turns(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    def steps(variant: str, turn: turns.Turn, rounds: int, doubled: int) -> list[dict[str, float]]:
        found = []
        for number in range(1 + rounds):
            turn()
            print("progress")
            with (tmp_path / "order").open("a") as file:
                file.write(f"{variant}{number} ")
            found.append({"seconds": float(number), "process": os.getpid(), "bytes": 2.0 * doubled})
        return found[1:]

    monkeypatch.setattr(turns, "benchmark", lambda name: SimpleNamespace(SIZES={"full": {"doubled": 4}}, steps=steps))
    monkeypatch.setattr(sys, "argv", ["turns", "any", "full", "3", "a", "b", "c"])
    turns.main()
    assert (tmp_path / "order").read_text() == "a0 b0 c0 a1 b1 c1 a2 b2 c2 a3 b3 c3 "
    lines = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    ends = {variant: found for variant, found in lines if found is not None}
    assert [[step["seconds"] for step in found] for found in ends.values()] == [[1.0, 2.0, 3.0]] * 3
    assert len({os.getpid(), *(found[0]["process"] for found in ends.values())}) == 4
    assert Counter(variant for variant, _ in lines) == {"a": 5, "b": 5, "c": 5}


def test_a_variant_that_fails_stops_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def steps(variant: str, turn: turns.Turn, rounds: int) -> list[dict[str, float]]:
        for number in range(rounds):
            turn()
            assert (variant, number) != ("b", 1)
        return []

    monkeypatch.setattr(turns, "benchmark", lambda name: SimpleNamespace(SIZES={"full": {}}, steps=steps))
    monkeypatch.setattr(sys, "argv", ["turns", "any", "full", "9", "a", "b"])
    with pytest.raises(SystemExit, match="b failed"):
        turns.main()


def test_a_step_is_a_round(monkeypatch: pytest.MonkeyPatch) -> None:
    def lines(*arguments: str) -> list[Any]:
        assert arguments == ("benchmarks.turns", "schedule", "full", "2", "prepo", "random", "prepo, own prompts")
        took = {"random": [1.0, 4.0], "prepo": [2.0, 4.0], "prepo, own prompts": [3.0, 6.0]}
        return [["random", None]] + [[v, [{"seconds": s, "select": 0.0} for s in of]] for v, of in took.items()]

    monkeypatch.setattr(paired, "_lines", lines)
    scheduled, own = paired.ratios("schedule", "full", 2, lambda line: None).values()
    assert (scheduled.low, scheduled.median, scheduled.high) == (1.0, 1.5, 2.0)
    assert (own.low, own.high) == (1.5, 3.0)


def test_a_measurement_is_of_the_work_alone() -> None:
    kept = bytearray(200 * 2**20)
    found = paired.timed(lambda: len(bytearray(100 * 2**20)))
    assert 90 * 2**20 < found["bytes"] < 130 * 2**20
    assert found["seconds"] > 0 and len(kept) > found["bytes"]


def result(**ratios: Ratio) -> dict[str, Any]:
    return {"measured": "then", "rounds": 3, "ratios": {name: vars(ratio) for name, ratio in ratios.items()}}


def test_a_check_names_what_got_worse(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {"slow": 0.5, "fast": 0.25}
    speed = Ratio(100.0, 100.0, 100.0, None, "tokens/s")
    kept = {"update": {"quick": result(**{c: Ratio(v, v, v, None) for c, v in before.items()}, speed=speed)}}
    monkeypatch.setattr(bench, "RESULTS", tmp_path / "results.json")
    bench.RESULTS.write_text(json.dumps(kept))

    def measured(name: str, size: str, rounds: int, note: Any) -> Measured:
        assert (name, size, rounds) == ("update", "quick", 3)
        worse = {c: Ratio(*[v * (1.3 if c == "slow" else 1.1)] * 3, None) for c, v in before.items()}
        return worse | {"speed": Ratio(200.0, 200.0, 200.0, None, "tokens/s"), "new": Ratio(9.0, 9.0, 9.0, None)}

    monkeypatch.setattr(bench, "ratios", measured)
    bench.check(bench.NAMES, None)
    told = capsys.readouterr().out.splitlines()
    assert told[-1] == "slow: 0.65, was 0.50"
    assert sum(", was " in line for line in told) == 1
    assert any("fast" in line and "0.28" in line and "0.25" in line for line in told)


def test_a_check_without_results_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench, "RESULTS", tmp_path / "results.json")
    monkeypatch.setattr(sys, "argv", ["bench", "--check"])
    bench.main()
    assert capsys.readouterr().out == "nothing to compare with: results.json doesn't exist; make bench writes it\n"


def test_sizes_are_kept_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = list[Any]()
    monkeypatch.setattr(bench, "RESULTS", tmp_path / "results.json")
    monkeypatch.setattr(bench, "ratios", lambda name, size, rounds, note: {size: Ratio(1.0, 1.0, 1.0, None)})
    monkeypatch.setattr(bench.page, "write", lambda kept, names: written.append(kept))
    bench.write(["output_matrix"], ["full", "quick"], None)
    bench.write(["output_matrix"], ["large"], 1)
    kept = bench.read()["output_matrix"]
    assert {size: (list(entry["ratios"]), entry["rounds"]) for size, entry in kept.items()} == {
        "full": (["full"], bench.ROUNDS["output_matrix"]), "quick": (["quick"], 3), "large": (["large"], 1)
    }  # fmt: skip
    assert written[-1] == bench.read()


def linear_points() -> growth.Points:
    of = {axis: [1e-3 * x for x in places] for axis, places in growth.AXES.items()}
    return {axis: {key: [1e6 * v if key == "bytes" else v for v in of[axis]] for key in growth.MEASURED} for axis in of}


def test_the_page_shows_what_was_measured(tmp_path: Path) -> None:
    value, memory = Ratio(0.5, 0.4, 0.625, 1.1), Ratio(1.5e9, 1.5e9, 1.5e9, 2e9, "bytes")
    kept = {
        "growth": {"points": linear_points(), "measured": "today"},
        "long_sequence": {"full": result(long=memory) | {"rounds": 1}},
        "output_matrix": {"full": result(matrix=value), "large": result(matrix=value), "quick": result(matrix=value)},
        "score": {"full": result(score=value) | {"measured": "later"}},
    }
    shown = tmp_path / "performance.md"
    shown.write_text(page.PAGE.read_text(encoding="utf-8"), encoding="utf-8")
    page.write(kept, bench.NAMES, shown, tmp_path / "growth.png")
    text = shown.read_text(encoding="utf-8")
    table = text.partition("<!-- ratios -->")[2].partition("<!-- end of ratios -->")[0].strip().splitlines()
    assert table[2:] == [
        "| matrix | 0.50 | 0.40 to 0.62 | 3 |  |",
        "| matrix, *large* | 0.50 | 0.40 to 0.62 | 3 | 1.10 |",
        "| long | 1.50 GB |  | 1 |  |",
        "| score | 0.50 | 0.40 to 0.62 | 3 | 1.10 |",
        "",
        "Measured then: output_matrix (full), output_matrix (large), long_sequence (full).",
        "",
        "Measured later: score (full).",
    ]
    assert text.partition("<!-- ratios")[0] == page.PAGE.read_text(encoding="utf-8").partition("<!-- ratios")[0]
    assert "| tokens per completion | 64 | 4,096 | 1.00 | 1.00 | 1.00 | 1.00 | 4.10 s, 4 MB |" in text
    assert (tmp_path / "growth.png").read_bytes().startswith(b"\x89PNG") and (tmp_path / "growth.svg").exists()
    del kept["growth"]  # its section stays
    page.write(kept, bench.NAMES, shown, tmp_path / "growth.png")
    assert shown.read_text(encoding="utf-8") == text


@given(st.floats(-3, 3), st.floats(1e-3, 1e3), st.lists(st.floats(0.1, 10), min_size=4, max_size=4))
def test_a_slope_is_the_exponent_of_the_upper_half(exponent: float, factor: float, lower: list[float]) -> None:
    x = [2**n for n in range(9)]
    y = [*lower, *(factor * at**exponent for at in x[4:])]
    assert growth.slope(x, y) == pytest.approx(exponent, abs=1e-6)
    assert growth.slope(x[-2:], y[-2:]) == pytest.approx(exponent, abs=1e-6)


def test_completions_have_the_stated_length_and_memory_counts_only_the_step() -> None:
    found = growth.step(growth.Work(rollouts=16, tokens=5, vocabulary=300))  # which checks the lengths itself
    assert found["seconds"] == pytest.approx(found["generate"] + found["update"])
    assert 0 <= found["bytes"] < 100 * 2**20


@given(st.integers(1, 200), st.integers(2, 5000))
def test_lengths_have_a_heavy_tail_up_to_the_longest(rows: int, longest: int) -> None:
    lengths_N = generation.lengths(rows, longest)
    assert lengths_N.shape == (rows,) and lengths_N.max() == longest and lengths_N.min() >= 1
    assert rows < 100 or longest < 100 or 0.15 < np.median(lengths_N) / longest < 0.35


@pytest.mark.parametrize("variant", ["hf 1K", "generate 1K"])
def test_generation_is_measured(variant: str) -> None:
    found = generation.measure(variant, **{"1K": {"rows": 3, "prompt": 8, "longest": 6}})
    tokens = generation.lengths(3, 6).sum()
    assert found["tokens/s"] == pytest.approx(tokens / found["seconds"])


@pytest.mark.parametrize("variant", ["told", "untold", "naive"])
def test_the_output_matrix_is_measured(variant: str) -> None:
    assert output_matrix.measure(variant, tokens=8, vocabulary=50, width=16)["seconds"] > 0


@pytest.mark.parametrize("variant", ["update", "bare", "shared", "score whole"])
def test_the_update_is_measured(variant: str) -> None:
    size = {"layers": 1, "vocabulary": 50, "groups": 4, "rollouts": 2, "longest": 20, "prompt": 12}
    assert update.measure(variant, **size)["seconds"] > 0


def test_the_schedules_work_is_done_for_the_prompts_that_random_chooses() -> None:
    asked = list[int]()

    class Counting(FakeProbe):
        def perplexity(self, prompts: Any, scope: str = "question") -> Any:
            asked.extend(prompt.index for prompt in prompts)
            return super().perplexity(prompts, scope)

    run, prompts = make_run(), make_prompts()
    ctx = StepContext(step=3, total_steps=10, epoch=0, round=0, seed=5, probe=Counting())
    params = schedule.ScheduleThenRandom.Params(ratio=0.25)
    both, random = schedule.ScheduleThenRandom(params, run), Random(Random.Params(ratio=0.25), run)
    assert both.select(4, FakeSource(prompts), ctx) == random.select(4, FakeSource(prompts), ctx)
    assert sorted(asked) == sorted(prompt.index for prompt in FakeSource(prompts).take(16))
    assert both.metrics()["ppl_kept_min"] > 0


def test_every_group_has_an_advantage() -> None:
    rewards = np.array(in_turn(["prompt"] * 32, ["same"] * 32)).reshape(4, 8)
    assert (rewards.std(axis=1) > 0).all()


def test_every_ratio_has_been_measured() -> None:
    kept = bench.read()
    for name in bench.NAMES:
        module = paired.benchmark(name)
        assert kept[name].keys() | {page.LARGE} == module.SIZES.keys() | {page.LARGE}, name
        for size, entry in kept[name].items():
            assert list(entry["ratios"]) == [claim.name for claim in module.CLAIMS], (name, size)
            for claim in module.CLAIMS:
                ratio = Ratio(**entry["ratios"][claim.name])
                assert 0 < ratio.low <= ratio.median <= ratio.high
                assert (ratio.limit, ratio.unit) == (claim.limit, claim.unit)
    assert {axis: len(of["seconds"]) for axis, of in kept[bench.GROWTH]["points"].items()} == {
        axis: len(places) for axis, places in growth.AXES.items()
    }


def test_the_page_shows_the_results() -> None:
    text, kept = page.PAGE.read_text(encoding="utf-8"), bench.read()
    assert page.ratios(kept, bench.NAMES) in text
    assert page.growth(kept) in text
