"""Datasets by short name: the training set and the benchmarks of the papers, on the hub.

A name stands for a hub dataset with its configuration, its one split and its columns. What a user says of split or
columns wins; a file or folder of that very name too.
"""

from __future__ import annotations

from dataclasses import dataclass

from prepo_cli.errors import UsageError


@dataclass(frozen=True)
class Named:
    """Where a dataset is and what its columns are called."""

    hub_id: str
    split: str
    prompt_column: str
    answer_column: str
    config: str | None = None
    other_splits: tuple[str, ...] = ()

    def split_for(self, asked: str) -> str:
        """The split asked for if there is such a one, else the set's usual one."""
        return asked if asked in self.other_splits else self.split


NAMED: dict[str, Named] = {
    "dapo-math-17k": Named("open-r1/DAPO-Math-17k-Processed", "train", "prompt", "solution", config="all"),
    "math500": Named("HuggingFaceH4/MATH-500", "test", "problem", "answer"),
    "aime24": Named("HuggingFaceH4/aime_2024", "train", "problem", "answer"),
    "aime25": Named("math-ai/aime25", "test", "problem", "answer"),
    "olympiadbench": Named("Hothan/OlympiadBench", "train", "question", "final_answer", config="OE_TO_maths_en_COMP"),
    "gsm8k": Named("openai/gsm8k", "test", "question", "answer", config="main", other_splits=("train",)),
    "amc23": Named("math-ai/amc23", "test", "question", "answer"),
}


def named(name: str) -> Named | None:
    """What a short name stands for; raises UsageError for a name that is nearly one."""
    found = NAMED.get(name.lower())
    if found is None and name.lower().replace("-", "").replace("_", "") in {key.replace("-", "") for key in NAMED}:
        raise UsageError(f"no dataset '{name}'; the short names are: {', '.join(NAMED)}")
    return found
