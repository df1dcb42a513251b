"""What `prepo_cli` exports: there, documented, typed, and with the settings of the commands."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any, get_type_hints

import pytest

import prepo_cli
from prepo_cli import UsageError
from prepo_cli.commands import eval as eval_command
from prepo_cli.commands import score_passrate as score_passrate_command
from prepo_cli.commands import score_ppl as score_ppl_command

OTHER_NAMES = {"set_": "sets"}
ONLY_COMMANDS = {"json_output"}


@pytest.mark.parametrize("name", sorted(set(prepo_cli.__all__) - {"UsageError"}))
def test_every_function_is_there_documented_and_typed(name: str) -> None:
    function = getattr(prepo_cli, name)
    assert function.__name__ == name
    assert inspect.getdoc(function)
    assert get_type_hints(function).keys() == inspect.signature(function).parameters.keys() | {"return"}


def test_other_names_are_refused_as_in_any_module() -> None:
    with pytest.raises(AttributeError, match="module 'prepo_cli' has no attribute 'evalute'"):
        _ = prepo_cli.evalute
    assert set(prepo_cli.__all__) <= set(dir(prepo_cli))


def test_both_packages_say_that_they_are_typed() -> None:
    assert all(resources.files(package).joinpath("py.typed").is_file() for package in ("prepo_cli", "strategies"))


def settings_of(function: Callable[..., Any]) -> dict[str, Any]:
    """Names and defaults; a flag that may be repeated has None where a function has an empty list."""
    parameters = inspect.signature(function).parameters
    return {
        OTHER_NAMES.get(name, name): None if parameter.default == () else parameter.default
        for name, parameter in parameters.items()
        if name not in ONLY_COMMANDS
    }


@pytest.mark.parametrize(
    ("function", "command"),
    [
        (prepo_cli.evaluate, eval_command.evaluate_command),
        (prepo_cli.score_ppl, score_ppl_command.score_ppl),
        (prepo_cli.score_passrate, score_passrate_command.score_passrate),
    ],
)
def test_functions_have_the_flags_and_defaults_of_their_commands(
    function: Callable[..., Any], command: Callable[..., Any]
) -> None:
    assert settings_of(function) == settings_of(command)


def test_bad_settings_are_refused_before_a_model_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="k=0: must be at least 1"):
        prepo_cli.evaluate(k=0)
    with pytest.raises(UsageError, match=r"accepts only --set engine\.key=value"):
        prepo_cli.score_ppl("embedded", sets=["training.beta=1"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("score", [prepo_cli.score_ppl, prepo_cli.score_passrate])
def test_a_bad_output_is_refused_before_a_model_is_loaded(
    score: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UsageError, match="the file name must end in one of"):
        score("embedded", output=tmp_path / "scored.txt")
    assert capsys.readouterr().err == ""


def test_perplexities_are_scored_and_plotted(tmp_path: Path) -> None:
    report = prepo_cli.score_ppl(
        "embedded", split="test", limit=8, output=tmp_path / "scored.jsonl", plot=str(tmp_path / "ppl.png")
    )
    assert report["scored"] == 8
    assert len(report["deciles"]) == 9
    assert (tmp_path / "scored.jsonl").read_text().count("\n") == 8
    assert (tmp_path / "ppl.png").read_bytes().startswith(b"\x89PNG")


def test_pass_rates_are_scored_and_plotted(tmp_path: Path) -> None:
    report = prepo_cli.score_passrate(
        "embedded", 4, split="test", limit=8, output=tmp_path / "scored.jsonl", plot=str(tmp_path / "rates.png")
    )
    rates = [json.loads(line)["pass_rate"] for line in (tmp_path / "scored.jsonl").read_text().splitlines()]
    assert report["mean"] == pytest.approx(sum(rates) / 8)
    assert (tmp_path / "rates.png").read_bytes().startswith(b"\x89PNG")
