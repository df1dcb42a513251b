"""Layers, slots with companions, and error messages for bad settings."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from prepo_cli.config import resolve, sections_of, template_arguments, to_yaml
from prepo_cli.engines.vllm_http import Server
from prepo_cli.errors import UsageError
from prepo_cli.recipes import recipes
from prepo_cli.sections import RunConfig
from prepo_cli.sections.engine import ADDRESS_VARIABLE
from prepo_cli.yaml_text import dump
from strategies.base import SLOTS
from strategies.errors import StrategyError
from strategies.registry import validate

OWN_MODEL = {"model.model_name_or_path": "some/model", "data.dataset_name": "some.jsonl"}


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def one(text: str, name: str = "run.yaml") -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return one


def error(*args: Any, **kwargs: Any) -> str:
    with pytest.raises((UsageError, StrategyError)) as raised:
        resolve(*args, **kwargs)
    message = str(raised.value)
    assert "\n" not in message
    return message


def test_without_arguments_it_is_prepo_on_the_embedded_task() -> None:
    config = resolve()
    assert config.recipe == "prepo"
    assert config.strategies.selector == "ppl-schedule"
    assert config.strategies.weighting == "rel-entropy"
    assert config.model.model_name_or_path == config.data.dataset_name == "embedded"
    assert config.evaluation.dataset_name == "embedded"
    assert config.evaluation.num_samples == 16


def test_the_papers_setting_holds_for_other_models() -> None:
    config = resolve(flags=OWN_MODEL)
    training = config.training
    assert (training.prompts_per_step, training.num_generations, training.learning_rate) == (256, 8, 1e-6)
    assert (training.epsilon, training.epsilon_high, training.beta, training.loss_type) == (0.2, 0.28, 0.0, "dapo")
    assert config.evaluation.dataset_name is None


@pytest.mark.parametrize("model", ["embedded", "some/model"])
def test_the_embedded_task_is_evaluated_on_its_test_split(model: str) -> None:
    evaluation = resolve(flags={"model.model_name_or_path": model}).evaluation
    assert (evaluation.dataset_name, evaluation.split, evaluation.limit) == ("embedded", "test", 200)
    assert not evaluation.holds_out


@pytest.mark.parametrize("model", ["embedded", "some/model"])
def test_of_own_data_a_share_is_held_out(model: str) -> None:
    own = {"model.model_name_or_path": model, "data.dataset_name": "mine.jsonl"}
    evaluation = resolve(flags=own).evaluation
    assert (evaluation.dataset_name, evaluation.holdout, evaluation.limit) == (None, 0.05, 500)
    assert evaluation.holds_out
    more = resolve(flags=own, sets=["evaluation.holdout=0.1", "evaluation.limit=null"]).evaluation
    assert (more.holdout, more.limit, more.holds_out) == (0.1, None, True)


@pytest.mark.parametrize(
    "off", ["evaluation.holdout=0", "evaluation.dataset_name=test.jsonl", "evaluation.dataset_name=null"]
)
def test_nothing_is_held_out_where_a_set_is_named_or_none_is_wanted(off: str) -> None:
    evaluation = resolve(flags={"data.dataset_name": "mine.jsonl"}, sets=[off]).evaluation
    assert (evaluation.holds_out, evaluation.limit) == (False, None)


def test_a_written_configuration_holds_out_what_the_run_did(write: Any) -> None:
    for sets in ([], ["evaluation.holdout=0"], ["evaluation.dataset_name=null"]):
        config = resolve(flags={"data.dataset_name": "mine.jsonl"}, sets=sets)
        assert resolve([write(to_yaml(config))]).evaluation == config.evaluation


def test_later_layers_win(write: Any) -> None:
    first = write("seed: 1\ntraining: {total_steps: 5, num_generations: 4}\n", "a.yaml")
    second = write("training: {total_steps: 6, learning_rate: 2.0e-5}\n", "b.yaml")
    config = resolve([first, second], {"training.total_steps": 7, "seed": None}, ["training.learning_rate=3e-5"])
    assert config.seed == 1
    assert config.training.num_generations == 4
    assert config.training.total_steps == 7
    assert config.training.learning_rate == 3e-5
    assert resolve([first, second]).training.total_steps == 6


@pytest.mark.parametrize(
    ("item", "section", "key", "value"),
    [
        ("training.learning_rate=1e-5", "training", "learning_rate", 1e-5),
        ("training.total_steps=12", "training", "total_steps", 12),
        ("training.mask_truncated_completions=true", "training", "mask_truncated_completions", True),
        ("training.save_total_limit=null", "training", "save_total_limit", None),
        ("rewards.functions=[math, exact]", "rewards", "functions", ["math", "exact"]),
        ("data.system_prompt=x = 1", "data", "system_prompt", "x = 1"),
        ("strategies.selector=random:ratio=0.5", "strategies", "selector", "random:ratio=0.5"),
    ],
)
def test_set_reads_yaml_values(item: str, section: str, key: str, value: Any) -> None:
    found = getattr(getattr(resolve(sets=[item]), section), key)
    assert found == value
    assert type(found) is type(value)


def test_recipes_are_the_files_of_the_examples() -> None:
    assert {"prepo", "random", "dapo"} <= set(recipes())
    for name, path in recipes().items():
        config = resolve(flags={"recipe": name, **OWN_MODEL})
        for slot, text in yaml.safe_load(path.read_text(encoding="utf-8"))["strategies"].items():
            assert getattr(config.strategies, slot) == text


def test_the_two_flags_are_the_prepo_recipe() -> None:
    flags = {"strategies.selector": "ppl-schedule", "strategies.weighting": "rel-entropy"}
    assert resolve(flags=flags) == resolve(flags={"recipe": "prepo"})


def test_setting_a_slot_keeps_the_recipes_other_slots() -> None:
    config = resolve(flags={"recipe": "dapo", "strategies.selector": "ppl-low"})
    assert config.strategies.filter == "nonzero-variance"
    assert config.strategies.selector == "ppl-low"


def test_companions_come_along_unless_the_slot_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    from strategies.selectors.full import Full

    monkeypatch.setattr(Full, "companions", {"filter": "nonzero-variance"})
    assert resolve(flags={"strategies.selector": "full"}).strategies.filter == "nonzero-variance"
    both = {"strategies.selector": "full", "strategies.filter": "keep-all"}
    assert resolve(flags=both).strategies.filter == "keep-all"
    chained = resolve(flags={"strategies.selector": "full+ppl-low"})
    assert chained.strategies.filter == "nonzero-variance"
    assert resolve(flags={"recipe": "random"}).strategies.filter == "keep-all"


@pytest.mark.parametrize(
    ("sets", "says"),
    [
        (
            ["training.lerning_rate=1"],
            "unknown setting 'training.lerning_rate' (did you mean 'training.learning_rate'?)",
        ),
        (["training.lora_r=8"], "unknown setting 'training.lora_r' (did you mean 'model.lora_r'?)"),
        (["training.qqq=1"], "unknown setting 'training.qqq'; known: total_steps, "),
        (["learning_rate=1"], "did you mean 'training.learning_rate'?"),
        (["trainig.seed=1"], "unknown setting 'trainig' (did you mean 'training'?"),
        (["strategies.selektor=random"], "did you mean 'strategies.selector'?"),
        (["training=5"], "'training' is a section; set training.<setting> instead"),
        (["training.learning_rate.x=5"], "training.learning_rate"),
        (["training.learning_rate"], "write section.key=value"),
        (["training.learning_rate=[1"], "--set training.learning_rate=[1 is not valid YAML"),
        (["data.system_prompt=think: hard"], "data.system_prompt"),
        (["training.total_steps=0"], "training.total_steps=0: must be at least 1"),
        (["training.total_steps=many"], 'training.total_steps="many"'),
        (["training.loss_type=ppo"], "training.loss_type"),
        (["training.num_generations=1"], "training.num_generations=1"),
        (["recipe=perpo"], "unknown recipe 'perpo' (did you mean 'prepo'?"),
        (["strategies.selector=ppl-shedule"], "did you mean 'ppl-schedule'?"),
        (["strategies.budget=rel-entropy"], "'rel-entropy' is a weighting"),
        (["rewards.weights=[1, 2]"], "2 weights for 1 functions"),
    ],
)
def test_bad_settings_are_reported_with_the_cure(sets: list[str], says: str) -> None:
    assert says in error(sets=sets)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("training: [1", "is not valid YAML"),
        ("- a\n- b\n", "is not a mapping of sections"),
        ("", "is not a mapping of sections"),
        ("trainng: {total_steps: 3}\n", "unknown setting 'trainng' (did you mean 'training'?"),
        ("training: 3\n", "'training' is a section"),
    ],
)
def test_bad_files_are_refused(text: str, says: str, write: Any) -> None:
    assert says in error([write(text)])


def test_a_missing_or_binary_file_is_named(tmp_path: Path) -> None:
    assert f"no such configuration file: {tmp_path / 'none.yaml'}" in error([tmp_path / "none.yaml"])
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x01")
    assert "binary.yaml" in error([tmp_path / "binary.yaml"])
    assert str(tmp_path) in error([tmp_path])


def test_the_written_configuration_resolves_to_itself(tmp_path: Path) -> None:
    config = resolve(flags={"recipe": "dapo", "seed": 5}, sets=["training.learning_rate=1e-5", "data.limit=10"])
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    assert resolve([tmp_path / "config.yaml"]) == config
    assert set(SLOTS) == set(RunConfig.model_fields["strategies"].annotation.model_fields)


LONG, DEEP = "1" * 5000, "[" * 100_000


@pytest.mark.parametrize(
    "item",
    [
        "training.total_steps=0x_", "seed=2026-99-99", "seed=2026-01-01", "1=2", "null=1", "=", f"seed={LONG}", "..=1",
        f"training.learning_rate={LONG}", "seed=1:30", "seed=!!python/name:os.system", "seed=!!binary aGk=",
        "seed=!!set {a}", 'output_dir="a\\0b"', "recipe=\udcff", "seed=---\n1\n---\n2", "seed=\t[", f"seed={DEEP}",
        "data.chat_template_kwargs={1: 2}", "data.chat_template_kwargs={null: 2}", "data.chat_template_kwargs={a: *a}",
        "data.chat_template_kwargs" + ".a" * 10_000 + "=1", "training.learning_rate=.inf", "training.learning_rate=nan",
        f"strategies.selector=random:ratio={LONG}", f"strategies.selector=random:ratio={DEEP}",
        "strategies.selector=ppl-low:ratio=0.5,ratio=0.6", "strategies.selector=\0:x", "strategies.selector=[a]",
        "strategies.selector=", f"{LONG}=1", f"recipe={LONG}", "engine.vllm_server_base_url=http://h:99999",
        "engine.vllm_server_base_url=http://[::1", "engine.vllm_server_base_url=localhost:8000",
    ],
)  # fmt: skip
def test_hostile_values_are_short_errors(item: str) -> None:
    assert len(error(sets=[item])) < 800


def test_readable_numbers_are_numbers() -> None:
    config = resolve(sets=["training.total_steps=1_000", "reporting.run_name=1e5x", "reporting.project='1e5'"])
    assert (config.training.total_steps, config.reporting.run_name) == (1000, "1e5x")
    assert config.reporting.project == "1e5"


def keys_of(model: type[BaseModel], place: str = "") -> list[str]:
    found = []
    for name, field in model.model_fields.items():
        kind = field.annotation
        section = isinstance(kind, type) and issubclass(kind, BaseModel)
        found += [f"{place}{name}", *(keys_of(kind, f"{place}{name}.") if section else [])]
    return found


SOUP = st.text(st.sampled_from("[]{}:,&*!|>'\"%@`?-#~=<.0123456789abenx_+\\ \n\t") | st.characters(), max_size=40)
KEYS = st.sampled_from(keys_of(RunConfig))
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | SOUP
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(SOUP | KEYS, inner, max_size=3), max_leaves=6
)


def tried(make: Callable[[], Any]) -> None:
    """Whatever comes in, a configuration comes out or an error for the user."""
    with suppress(UsageError, StrategyError):
        make()


@settings(deadline=None)
@given(KEYS | SOUP, SOUP | VALUES.map(dump))
def test_no_set_item_breaks_it(key: str, text: str) -> None:
    tried(lambda: resolve(sets=[f"{key}={text}"]))
    tried(lambda: sections_of([f"{key}={text}"], engine={}, rewards={}))
    tried(lambda: template_arguments([f"{key}={text}", text]))


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=60) | SOUP.map(lambda text: text.encode("utf-8", "surrogatepass")) | VALUES.map(
    lambda value: dump(value).encode("utf-8", "surrogatepass")
))  # fmt: skip
def test_no_file_breaks_it(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "any.yaml").write_bytes(raw)
    tried(lambda: resolve([tmp_path / "any.yaml"]))


@settings(deadline=None)
@given(
    st.sampled_from(sorted(SLOTS)),
    SOUP | st.builds("{}:{}={}".format, st.sampled_from(["random", "e3", ""]), SOUP, SOUP),
)
def test_no_strategy_spec_breaks_it(slot: str, text: str) -> None:
    tried(lambda: validate(slot, text))


ADDRESS = "http://me:s3cret@[::1]:8000/v1?token=t0ken"
HIDDEN_ADDRESS = "http://***@[::1]:8000/v1?***"


def test_credentials_of_an_address_stay_in_memory(tmp_path: Path) -> None:
    config = resolve(sets=["engine.name=vllm-server", f"engine.vllm_server_base_url={ADDRESS}"])
    assert config.engine.vllm_server_base_url == ADDRESS
    assert config.model_copy().engine.vllm_server_base_url == ADDRESS
    assert config.engine.secret_environment == {ADDRESS_VARIABLE: ADDRESS}
    for shown in (to_yaml(config), config.model_dump_json(), repr(config), str(config.model_dump())):
        assert "s3cret" not in shown and "t0ken" not in shown
    assert HIDDEN_ADDRESS in to_yaml(config)
    assert "s3cret" not in error(sets=[f"engine.vllm_server_base_url=[{ADDRESS}]"])
    assert "s3cret" not in error(sets=["engine.vllm_server_base_url=http://me:s3c/s3cret@host"])


def test_a_stored_address_is_completed_by_a_flag_or_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored, name = tmp_path / "config.yaml", "engine.vllm_server_base_url"
    stored.write_text(to_yaml(resolve(sets=["engine.name=vllm-server", f"{name}={ADDRESS}"])), encoding="utf-8")
    assert resolve([stored]).engine.vllm_server_base_url == HIDDEN_ADDRESS
    with pytest.raises(UsageError, match=ADDRESS_VARIABLE):
        Server(resolve([stored]).engine.vllm_server_base_url, 1.0)
    assert resolve([stored], sets=[f"{name}=http://a:b@c"]).engine.vllm_server_base_url == "http://a:b@c"
    monkeypatch.setenv(ADDRESS_VARIABLE, ADDRESS)
    assert resolve([stored]).engine.vllm_server_base_url == ADDRESS
    assert resolve().engine.vllm_server_base_url == ADDRESS
    assert resolve(sets=[f"{name}=http://other"]).engine.vllm_server_base_url == "http://other"
    monkeypatch.setenv(ADDRESS_VARIABLE, "localhost")
    assert "http://HOST:PORT" in error([stored])
