"""Rows of calls and processes, brought together and dealt out: against lists of Python."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prepo_cli.errors import RunError
from prepo_cli.integrations.trl_rows import Table, deal, loss_mask, take

PAD = 9
ROW = st.tuples(
    st.lists(st.integers(0, 8), min_size=1, max_size=4), st.lists(st.integers(0, 8), min_size=1, max_size=4)
)
CALLS = st.lists(st.lists(ROW, min_size=1, max_size=4), min_size=1, max_size=3)


def padded(rows: list[list[int]], filler: int, left: bool) -> torch.Tensor:
    width = max(map(len, rows))
    return torch.tensor(
        [[filler] * (width - len(r)) * left + r + [filler] * (width - len(r)) * (not left) for r in rows]
    )


def call(rows: list[tuple[list[int], list[int]]]) -> dict[str, Any]:
    """A batch as TRL makes it."""
    prompts, completions = [list(p) for p, _ in rows], [list(c) for _, c in rows]
    return {
        "prompt_ids": padded(prompts, PAD, True),
        "prompt_mask": padded([[1] * len(p) for p in prompts], 0, True),
        "completion_ids": padded(completions, PAD, False),
        "completion_mask": padded([[1] * len(c) for c in completions], 0, False),
        "old_per_token_logps": padded([[-x for x in c] for c in completions], 0, False).float(),
        "advantages": torch.tensor([float(sum(p) + 1) for p in prompts]),
        "num_items_in_batch": torch.tensor(sum(map(len, completions))),
    }


def table_of(calls: list[list[tuple[list[int], list[int]]]]) -> dict[str, torch.Tensor]:
    table = Table(SimpleNamespace(num_processes=1), PAD)
    for rows in calls:
        table.add(call(rows))
    return table.rows()


@given(CALLS, st.data())
def test_chosen_rows_are_what_was_generated(calls: Any, data: st.DataObject) -> None:
    generated = [row for rows in calls for row in rows]
    chosen = data.draw(st.lists(st.integers(-1, len(generated) - 1), min_size=1, max_size=8))
    rows = take(table_of(calls), chosen)
    real = [generated[i] for i in chosen if i >= 0]
    for place, i in enumerate(chosen):
        prompt = rows["prompt_ids"][place][rows["prompt_mask"][place].bool()].tolist()
        mask = rows["completion_mask"][place].bool()
        assert prompt == generated[max(i, 0)][0]
        assert rows["completion_ids"][place][mask].tolist() == ([] if i < 0 else generated[i][1])
        assert (-rows["old_per_token_logps"][place][mask]).tolist() == ([] if i < 0 else generated[i][1])
        assert rows["advantages"][place] == (0 if i < 0 else sum(generated[i][0]) + 1)
    assert rows["completion_ids"].shape[1] == max([1, *(len(c) for _, c in real)])
    assert rows["prompt_ids"].shape[1] == max(len(generated[max(i, 0)][0]) for i in chosen)
    assert loss_mask(rows).sum() == sum(len(c) for _, c in real)


@given(st.integers(0, 40), st.integers(1, 4), st.integers(1, 5))
def test_every_row_is_dealt_once_and_shares_are_equal(count: int, processes: int, micro_batches: int) -> None:
    shares = deal(count, processes, micro_batches)
    assert len(shares) == processes
    assert len({len(share) for share in shares}) == 1 and len(shares[0]) % micro_batches == 0 and shares[0]
    assert sorted(i for share in shares for i in share if i >= 0) == list(range(count))
    assert sum(map(len, shares)) < max(count, 1) + processes * micro_batches


def test_masks_of_tools_are_padded_as_trl_does_and_one_value_a_row_stays_one() -> None:
    table = Table(SimpleNamespace(num_processes=1), PAD)
    for rows, width in (([([1], [1, 2])], 2), ([([1], [1, 2, 3])], 3)):
        more = {"tool_mask": torch.zeros(1, width, dtype=torch.long), "importance_sampling_ratio": torch.ones(1, 1)}
        table.add(call(rows) | more)
    joined = table.rows()
    assert joined["tool_mask"].tolist() == [[0, 0, 1], [0, 0, 0]]
    assert joined["importance_sampling_ratio"].shape == (2, 1)
    assert take(joined, [0])["importance_sampling_ratio"].shape == (1, 1)
    assert loss_mask(joined).sum() == 0


def test_a_field_that_prepo_does_not_know_is_named() -> None:
    with pytest.raises(RunError, match="has fields that prepo can't rearrange: pixel_values"):
        Table(SimpleNamespace(num_processes=1), PAD).add(call([([1], [2])]) | {"pixel_values": torch.zeros(1)})
