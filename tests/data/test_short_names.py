"""Short names resolve to the right Hub dataset, configuration, split and columns; nothing is downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pytest

from prepo_cli.data.loading import load_prompts
from prepo_cli.data.short_names import SHORT_NAMES
from prepo_cli.errors import UsageError

ROWS = {
    "dapo-math-17k": {"prompt": "2 + 2?", "solution": "4", "data_source": "math_dapo"},
    "math500": {"problem": "2 + 2?", "solution": "It is \\boxed{4}.", "answer": "4", "level": 1},
    "aime24": {"id": 60, "problem": "2 + 2?", "solution": "It is 4.", "answer": "4", "year": "2024"},
    "aime25": {"problem": "2 + 2?", "answer": "4", "id": "0"},
    "olympiadbench": {"id": 1, "question": "2 + 2?", "solution": ["It is 4."], "final_answer": ["4"]},
    "gsm8k": {"question": "2 + 2?", "answer": "2 + 2 = 4\n#### 4"},
    "amc23": {"id": 0, "question": "2 + 2?", "problem": "2 + 2?", "answer": 4.0},
}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    calls: list[tuple[Any, ...]] = []

    def load(name: str, config: str | None = None, *, split: str) -> Any:
        calls.append((name, config, split))
        short = next(short for short, known in SHORT_NAMES.items() if known.hub_id == name)
        return datasets.Dataset.from_list([ROWS[short]])

    monkeypatch.setattr(datasets, "load_dataset", load)
    return calls


@pytest.mark.parametrize("name", SHORT_NAMES)
@pytest.mark.parametrize("split", ["train", "test"])
def test_every_name(name: str, split: str, asked: list[tuple[Any, ...]]) -> None:
    dataset = load_prompts(name.upper() if split == "test" else name, split=split)
    known = SHORT_NAMES[name]
    assert asked == [(known.hub_id, known.config, split if name == "gsm8k" else known.split)]
    assert dataset.question(0) == "2 + 2?"
    assert dataset.answer(0) == "4"


def test_the_users_settings_take_precedence(asked: list[tuple[Any, ...]]) -> None:
    dataset = load_prompts("math500", answer_column="level", dataset_config="other")
    assert dataset.answer(0) == "1"
    assert asked[0][1] == "other"


def test_a_folder_of_the_same_name_takes_precedence(
    asked: list[tuple[Any, ...]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets.Dataset.from_list([{"prompt": "mine?", "answer": "1"}]).save_to_disk(str(tmp_path / "gsm8k"))
    monkeypatch.chdir(tmp_path)
    assert load_prompts("gsm8k").question(0) == "mine?"
    assert not asked


@pytest.mark.parametrize(("name", "near"), [("aime-24", "aime24"), ("MATH_500", "math500"), ("amc_23", "amc23")])
def test_a_misspelt_short_name_is_refused_with_the_nearest(name: str, near: str) -> None:
    with pytest.raises(
        UsageError, match=rf"unknown dataset '{name}' \(did you mean '{near}'\?\); known: dapo-math-17k"
    ):
        load_prompts(name)


SHARED = Path(__file__).parents[3] / "shared" / "data"


@pytest.mark.parametrize(("name", "file"), [("aime24", "aime24.jsonl"), ("olympiadbench", "olympiadbench.jsonl"),
                                            ("gsm8k", "gsm8k.jsonl"), ("amc23", "amc23.jsonl")])  # fmt: skip
def test_columns_are_those_of_the_real_files(name: str, file: str) -> None:
    """Compared with the published files where available, else with a row that has their columns."""
    known = SHORT_NAMES[name]
    path = SHARED / file
    row = datasets.load_dataset("json", data_files=str(path), split="train")[0] if path.is_file() else ROWS[name]
    assert known.prompt_column in row
    assert known.answer_column in row
