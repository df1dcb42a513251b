"""How rows are put into batches."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import Gemma2Config, MistralConfig, Qwen2Config

from prepo_cli.policy import plans as module
from prepo_cli.policy.plans import BATCH_OVERHEAD, PADDED, Arrangement, Batch, Packing, cheapest, plan, plan_whole
from tests.policy.test_rows import random_rows

RNG = np.random.default_rng(11)
LENGTHS = st.lists(st.integers(0, 40), max_size=9)
GROUPS = {
    "prefixes": st.lists(st.integers(1, 60), min_size=1, max_size=6),
    "size": st.integers(1, 5),
    "longest": st.integers(1, 80),
    "max_tokens": st.integers(1, 600),
}


@given(lengths=LENGTHS, max_tokens=st.integers(1, 100), overhead=st.integers(0, 60))
def test_batches_cost_least_of_all_within_the_bound(lengths: list[int], max_tokens: int, overhead: int) -> None:
    """Of all ways to cut the rows, sorted by length, into batches."""

    def cost(batch: list[int]) -> float:
        padded = len(batch) * max(*batch, 1)
        return padded + overhead if padded <= max_tokens or len(batch) == 1 else np.inf

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BATCH_OVERHEAD", overhead)
        found = plan(lengths, max_tokens)
    batches = [batch.rows for batch in found.batches]
    ordered, best = sorted(lengths, reverse=True), np.inf
    for cuts in range(2 ** max(len(ordered) - 1, 0)):
        starts = [0, *(i for i in range(1, len(ordered)) if cuts >> (i - 1) & 1), len(ordered)]
        best = min(best, sum(cost(ordered[a:b]) for a, b in pairwise(starts) if a < b))
    assert [lengths[i] for batch in batches for i in batch] == ordered
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    assert sum(cost([lengths[i] for i in batch]) for batch in batches) == best == found.cost


def test_many_rows_are_batched_with_little_padding() -> None:
    lengths = RNG.lognormal(6, 1, 4096).astype(int).clip(1, 16_384).tolist()
    batches = [batch.rows for batch in plan(lengths, 16_384).batches]
    assert sum(len(batch) * max(lengths[i] for i in batch) for batch in batches) < 1.06 * sum(lengths)
    assert len(batches) < 1.2 * sum(lengths) / 16_384 + 20


@given(**GROUPS)
def test_shared_batches_have_every_row_once_and_compute_much_less(
    prefixes: list[int], size: int, longest: int, max_tokens: int
) -> None:
    rows, spans = random_rows(prefixes, RNG.integers(1, longest + 1, size=(len(prefixes), size)).tolist())
    starts, lengths = [start for start, _ in spans], [len(row) for row in rows]
    found, plain = cheapest(rows, spans, max_tokens), plan(lengths, max_tokens)
    assert sorted(i for batch in found.batches for i in batch.rows) == list(range(len(rows)))
    if not found.batches[0].arrangement.shared:
        assert found == plain
        return
    total = 0
    for batch in found.batches:
        different = {tuple(rows[i][: starts[i]]) for i in batch.rows}
        rest = max(lengths[i] - starts[i] for i in batch.rows)
        tokens = len(different) * max(map(len, different)) + len(batch.rows) * rest
        assert tokens <= max_tokens or len(different) == 1
        total += tokens + 2 * BATCH_OVERHEAD
    assert total == found.cost <= 0.9 * plain.cost


@given(**GROUPS, factor=st.integers(8, 400))
def test_packed_batches_have_every_row_once_within_their_bounds(
    prefixes: list[int], size: int, longest: int, max_tokens: int, factor: int
) -> None:
    rows, spans = random_rows(prefixes, RNG.integers(1, longest + 1, size=(len(prefixes), size)).tolist())
    packing = Packing(longest=2 * factor, hidden=factor)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "WORTHWHILE", 100)
        patch.setattr(module, "BATCH_OVERHEAD", 0)
        found = cheapest(rows, spans, max_tokens, can_share=False, packing=packing)
        plain = plan([len(row) for row in rows], max_tokens)
    assert sorted(i for batch in found.batches for i in batch.rows) == list(range(len(rows)))
    if found == plain:
        return
    assert max(map(len, rows)) <= min(packing.longest, max_tokens)
    total = 0
    for batch in found.batches:
        assert sum(batch.arrangement.packs) == len(batch.rows)
        widths, rest = [], iter(batch.rows)
        for count in batch.arrangement.packs:
            members = [next(rest) for _ in range(count)]
            before = [None, *(rows[i][: spans[i][0]] for i in members)]
            widths.append(
                sum(
                    len(rows[i]) - (rows[i][: spans[i][0]] == p) * spans[i][0]
                    for p, i in zip(before, members, strict=False)
                )
            )
        assert max(widths) <= packing.longest
        assert len(widths) * max(widths) <= max_tokens or len(widths) == 1
        total += len(widths) * max(widths)
    assert total <= found.cost <= plain.cost


@given(lengths=st.lists(st.integers(1, 40), max_size=60), max_tokens=st.integers(1, 200))
def test_whole_rows_are_packed_once_each_with_little_left_over(lengths: list[int], max_tokens: int) -> None:
    found = plan_whole(lengths, max_tokens)
    assert sorted(i for batch in found.batches for i in batch.rows) == list(range(len(lengths)))
    totals = [sum(lengths[i] for i in batch.rows) for batch in found.batches]
    for batch, total in zip(found.batches, totals, strict=True):
        assert total <= max_tokens or len(batch.rows) == 1
        assert batch.arrangement == Arrangement(packs=(len(batch.rows),), whole=True)
    assert found.cost == sum(lengths) + len(totals) * BATCH_OVERHEAD
    assert sum(total <= max_tokens / 2 for total in totals) <= 1  # two of these would have gone together


@pytest.mark.parametrize("span", [(0, 40), (3, 40)], ids=["from the first token on", "after a prefix"])
def test_whole_rows_are_packed_where_the_model_allows_it_and_padding_is_much(span: tuple[int, int]) -> None:
    rows = [[7] * length for length in range(40, 520, 12)]

    def whole(packs_whole: bool) -> set[bool]:
        found = cheapest(rows, [span] * len(rows), 16_384, can_share=False, packs_whole=packs_whole)
        return {batch.arrangement.whole for batch in found.batches}

    assert whole(True) == {True} and whole(False) == {False}


@pytest.mark.parametrize(
    ("prefixes", "rests", "shared"),
    [
        ([500] * 4, [[100] * 8] * 4, True),
        ([20] * 4, [[1000, 600, 300, 100]] * 4, False),
        ([500] * 4, [[100]] * 4, False),
        ([1] * 4, [[100] * 8] * 4, False),
    ],
    ids=["long prompts", "long completions of many lengths", "groups of one", "nothing to share"],
)
def test_prefixes_are_shared_where_it_computes_much_less(
    prefixes: list[int], rests: list[list[int]], shared: bool
) -> None:
    rows, spans = random_rows(prefixes, rests)
    assert {batch.arrangement.shared for batch in cheapest(rows, spans, 4096).batches} == {shared}
    assert not any(batch.arrangement.shared for batch in cheapest(rows, spans, 4096, can_share=False).batches)


@pytest.mark.parametrize(
    ("prefix", "rest", "packing", "packed"),
    [
        (20, 30, Packing(256, 128), True),
        (20, 30, None, False),
        (20, 30, Packing(49, 128), False),
        (100, 1900, Packing(2048, 1024), False),
        (20, 30, Packing(1792, 896), True),
    ],
    ids=["short rows", "an architecture that can't", "above the window", "long rows", "of a larger model"],
)
def test_short_rows_of_unlike_lengths_are_packed(prefix: int, rest: int, packing: Packing | None, packed: bool) -> None:
    rows, spans = random_rows([prefix] * 32, RNG.integers(1, rest + 1, size=(32, 8)).tolist())
    rows[0], spans[0] = [*rows[0][:prefix], *[2] * rest], (prefix, prefix + rest)
    found = cheapest(rows, spans, 16_384, packing=packing)
    assert {bool(batch.arrangement.packs) for batch in found.batches} == {packed}
    if packed:
        unpadded = 32 * prefix + sum(end - start for start, end in spans)
        widest = max(sum(batch.arrangement.packs) for batch in found.batches)
        assert widest > 8
        assert found.cost < 1.5 * unpadded + len(found.batches) * BATCH_OVERHEAD * 1.4


def test_packed_rows_leave_little_padding() -> None:
    rows, spans = random_rows([20] * 200, RNG.integers(1, 60, size=(200, 8)).tolist())
    found = cheapest(rows, spans, 16_384, packing=(packing := Packing(256, 128)))
    unpadded = 200 * 20 + sum(end - start for start, end in spans)
    overhead = len(found.batches) * BATCH_OVERHEAD
    assert found.cost < 1.1 * (unpadded + overhead) * (1 + packing.longest / (6 * packing.hidden))


@pytest.mark.parametrize("rows", [[], [[1, 2]] * 100], ids=["no rows", "no prefix"])
def test_rows_without_a_prefix_are_padded(rows: list[list[int]]) -> None:
    found = cheapest(rows, [(0, 2)] * len(rows), 4096, packing=Packing(256, 128))
    assert found.batches == ([Batch(list(range(100)), PADDED)] if rows else [])


def test_no_more_is_packed_than_the_architectures_window() -> None:
    shape = {"hidden_size": 64, "num_attention_heads": 4}
    assert Packing.of(Qwen2Config(**shape)) == Packing(128, 64)
    assert Packing.of(MistralConfig(**shape, sliding_window=100)) == Packing(100, 64)
    assert Packing.of(Gemma2Config(**shape, sliding_window=4096)) == Packing(128, 64)
    assert Packing.of(object()) == Packing(0, 0)
