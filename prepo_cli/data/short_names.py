"""Short names for the papers' training set and benchmarks on the Hugging Face Hub.

A short name fixes the Hub repository, configuration, split and columns. Columns and configurations that the user sets
take precedence, and so does a local file or folder of the same name.
"""

from __future__ import annotations

from dataclasses import dataclass

from prepo_cli.errors import UsageError
from strategies.registry import did_you_mean


@dataclass(frozen=True)
class HubDataset:
    """Where a dataset is stored and what its columns are called."""

    hub_id: str
    split: str
    prompt_column: str
    answer_column: str
    config: str | None = None
    other_splits: tuple[str, ...] = ()

    def split_for(self, requested: str) -> str:
        """The requested split if the dataset has it, else its default split."""
        return requested if requested in self.other_splits else self.split


SHORT_NAMES: dict[str, HubDataset] = {
    "dapo-math-17k": HubDataset("open-r1/DAPO-Math-17k-Processed", "train", "prompt", "solution", config="all"),
    "math500": HubDataset("HuggingFaceH4/MATH-500", "test", "problem", "answer"),
    "aime24": HubDataset("HuggingFaceH4/aime_2024", "train", "problem", "answer"),
    "aime25": HubDataset("math-ai/aime25", "test", "problem", "answer"),
    "olympiadbench": HubDataset(
        "Hothan/OlympiadBench", "train", "question", "final_answer", config="OE_TO_maths_en_COMP"
    ),
    "gsm8k": HubDataset("openai/gsm8k", "test", "question", "answer", config="main", other_splits=("train",)),
    "amc23": HubDataset("math-ai/amc23", "test", "question", "answer"),
}


def by_short_name(name: str) -> HubDataset | None:
    """The dataset with this short name, if any; raises UsageError for a misspelt short name."""
    found = SHORT_NAMES.get(name.lower())
    if found is None and name.lower().replace("-", "").replace("_", "") in {
        key.replace("-", "") for key in SHORT_NAMES
    }:
        raise UsageError(
            f"unknown dataset '{name}'{did_you_mean(name.lower(), SHORT_NAMES)}; known: {', '.join(SHORT_NAMES)}"
        )
    return found
