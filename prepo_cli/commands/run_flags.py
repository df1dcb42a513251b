"""The flags that set up a training run, for the commands that train: `train` and `compare`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

SLOT_HELP = "name:key=value,key=value; see `prepo strategies`"
VERDICT_HELP = "Reward function that decides correctness [default: math, else exact, else boxed, else the first]."

Model = Annotated[
    str | None,
    typer.Option(help="Hub name, folder, run folder or 'latest' (its final model), or 'embedded' (default)."),
]
Dataset = Annotated[
    str | None,
    typer.Option(help="File, folder, short name, Hub name, 'embedded' (default) or embedded:dead=0.8."),
]
Split = Annotated[str | None, typer.Option(help="Split of the dataset [default: train].")]
Limit = Annotated[int | None, typer.Option(help="Use only the first N rows.")]
Steps = Annotated[
    int | None,
    typer.Option(help="Number of training steps [default: 200, or 50 for the embedded model; none with a cost limit]."),
]
MaxRollouts = Annotated[int | None, typer.Option(help="Stop after the step that reaches this many rollouts.")]
MaxTokens = Annotated[
    int | None, typer.Option(help="Stop after the step that reaches this many generated and scored tokens.")
]
MaxSeconds = Annotated[
    float | None, typer.Option(help="Stop after the step that reaches this training time in seconds.")
]
Reward = Annotated[
    list[str] | None,
    typer.Option(help="Reward function: math (default), exact, boxed or your own as file.py:function; repeatable."),
]
Verdict = Annotated[str | None, typer.Option(help=VERDICT_HELP)]
Engine = Annotated[str | None, typer.Option(help="Generation engine: hf (default), vllm or vllm-server.")]
PromptColumn = Annotated[str | None, typer.Option(help="Column with the prompts.")]
AnswerColumn = Annotated[str | None, typer.Option(help="Column with the gold answers.")]
SkipBadRows = Annotated[bool, typer.Option("--skip-bad-rows", help="Skip and count unusable rows.")]
BreakLock = Annotated[
    bool,
    typer.Option("--break-lock", help="Take over the output of a process on another machine that has ended."),
]
Config = Annotated[list[Path] | None, typer.Option(help="YAML configuration file; repeatable, later files win.")]
Set = Annotated[
    list[str] | None, typer.Option("--set", help="Any setting, such as training.learning_rate=1e-5; repeatable.")
]

SETTINGS = {
    "model": "model.model_name_or_path",
    "dataset": "data.dataset_name",
    "split": "data.split",
    "limit": "data.limit",
    "prompt_column": "data.prompt_column",
    "answer_column": "data.answer_column",
    "skip_bad_rows": "data.skip_bad_rows",
    "reward": "rewards.functions",
    "verdict": "rewards.verdict",
    "steps": "training.total_steps",
    "max_rollouts": "training.max_rollouts",
    "max_tokens": "training.max_tokens",
    "max_seconds": "training.max_seconds",
    "engine": "engine.name",
}
"""The setting of each flag."""


def settings(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a command's flags give, by dotted key; None where a flag was not given.

    >>> settings({"steps": 20, "skip_bad_rows": False, "output_dir": "study"})
    {'data.skip_bad_rows': None, 'training.total_steps': 20}
    """
    given = {key: arguments[name] for name, key in SETTINGS.items() if name in arguments}
    return {key: None if value is False else value for key, value in given.items()}
