"""Any strategy spec, any `--set` and any configuration file is taken or refused in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prepo_cli.main import main
from prepo_cli.sections import RunConfig
from strategies.base import SLOTS
from strategies.registry import listed
from tests.fuzz.console import answer, fuzz

SECTIONS = {name: field.annotation for name, field in RunConfig.model_fields.items()}
KEYS = [
    f"{name}.{key}" for name, kind in SECTIONS.items() if hasattr(kind, "model_fields") for key in kind.model_fields
] + ["seed", "recipe", "strategies", "training", "nowhere.at_all"]  # fmt: skip
ANY = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40)
SCALARS = st.sampled_from([
    "0x_", "2026-99-99", "1_000", "1:30", "~", "null", "true", ".inf", "-.inf", ".nan", "1e400", "-1", "9" * 5000, "''",
    "!!python/object/apply:os.system [ls]", "!!binary AA==", "&a [*a]", "{<<: {a: 1}}", "[[[[", "%", "\t", "---", "@",
]) | st.integers().map(str) | st.floats().map(repr) | ANY  # fmt: skip
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4).map(lambda items: f"[{', '.join(items)}]")
        | st.lists(st.tuples(SCALARS, inner), max_size=4).map(
            lambda items: "{" + ", ".join(f"{key}: {value}" for key, value in items) + "}"
        )
    ),
    max_leaves=8,
)
STRATEGIES = sorted({strategy.name for strategy in listed()})
PARAMETERS = st.lists(st.tuples(st.sampled_from(["ratio", "keep", "prior", "minimum", "scope"]) | ANY, VALUES),
                      max_size=3)  # fmt: skip
SPECS = st.builds(
    lambda parts, separator: separator.join(
        name + (":" if parameters else "") + ",".join(f"{key}={value}" for key, value in parameters)
        for name, parameters in parts
    ),
    st.lists(st.tuples(st.sampled_from(STRATEGIES), PARAMETERS), min_size=1, max_size=3),
    st.sampled_from(["+", "", ":", "++"]),
)


@pytest.fixture
def taken(tmp_path: Path) -> list[str]:
    """Flags of a run that is always refused, for its folder at the latest; what it imports is imported now."""
    path = tmp_path / "a file"
    path.touch()
    flags = ["--output-dir", str(path)]
    with pytest.raises(SystemExit):
        main(["train", *flags])
    return flags


@fuzz
@given(SPECS | ANY)
def test_any_strategy(capfd: pytest.CaptureFixture[str], spec: str) -> None:
    answer(["strategies", spec], capfd)


@fuzz
@given(st.sampled_from(sorted(SLOTS)), SPECS | ANY)
def test_any_strategy_of_a_run(capfd: pytest.CaptureFixture[str], taken: list[str], slot: str, spec: str) -> None:
    assert answer(["train", *taken, f"--set=strategies.{slot}={spec}"], capfd) == 2


@fuzz
@given(st.sampled_from(KEYS) | ANY, VALUES)
def test_any_setting(capfd: pytest.CaptureFixture[str], taken: list[str], key: str, value: str) -> None:
    assert answer(["train", *taken, f"--set={key}={value}"], capfd) == 2


@fuzz
@given(st.lists(st.tuples(st.sampled_from(KEYS) | SCALARS, VALUES), max_size=4), st.binary(max_size=20))
def test_any_configuration_file(
    capfd: pytest.CaptureFixture[str], taken: list[str], tmp_path: Path, lines: list[tuple[str, str]], rest: bytes
) -> None:
    path = tmp_path / "settings.yaml"
    path.write_bytes("\n".join(f"{key.replace('.', ': {', 1)}: {value}" for key, value in lines).encode() + rest)
    assert answer(["train", *taken, "--config", str(path)], capfd) == 2
    assert {file.name for file in tmp_path.iterdir()} == {"settings.yaml", "a file"}
