"""The one door: names, specs, chains, dotted paths, collisions and plug-ins."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from strategies import registry
from strategies.base import BudgetAllocator, RolloutWeighting, Selector, Strategy
from strategies.chain import Chain
from strategies.errors import StrategyError
from strategies.registry import Spec, create, find, parse, register
from strategies.types import Batch, FloatArray, StepContext
from tests.fakes import FakeRun, make_run

RUN = make_run()
PLUGIN = """
from strategies import Selector, register

@register("{name}")
class Backwards(Selector):
    '''The stream backwards.'''

    def select(self, n, source, ctx):
        return source.take(n)[::-1]
"""


@pytest.fixture
def clean() -> Iterator[None]:
    """Restores the registry, and rereads the entry points before and after."""
    before, modules, path = dict(registry._registered), set(sys.modules), list(sys.path)
    registry.load_plugins.cache_clear()
    yield
    registry._registered.clear()
    registry._registered.update(before)
    for name in set(sys.modules) - modules:
        if name.startswith("stranger"):
            del sys.modules[name]
    sys.path[:] = path
    registry.load_plugins.cache_clear()


@pytest.fixture
def install(tmp_path: Path, clean: None) -> Callable[[str, str], None]:
    """Installs a package of one module with an entry point, as pip would."""

    def add(package: str, source: str) -> None:
        (tmp_path / f"{package}.py").write_text(source, encoding="utf-8")
        info = tmp_path / f"{package}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n", encoding="utf-8")
        (info / "entry_points.txt").write_text(f"[prepo.strategies]\n{package} = {package}\n", encoding="utf-8")
        if str(tmp_path) not in sys.path:
            sys.path.insert(0, str(tmp_path))

    return add


@pytest.mark.parametrize(
    ("text", "specs"),
    [
        ("random", [Spec("random")]),
        ("ppl-schedule:ratio=0.2,scope=prompt", [Spec("ppl-schedule", {"ratio": 0.2, "scope": "prompt"})]),
        (" random : ratio = 0.5 ", [Spec("random", {"ratio": 0.5})]),
        ("full+ppl-low:ratio=1", [Spec("full"), Spec("ppl-low", {"ratio": 1})]),
        ("a:x=true,y=null,z=text", [Spec("a", {"x": True, "y": None, "z": "text"})]),
        ("my.module:Class", [Spec("my.module:Class")]),
        ("my.module:Class:x=1", [Spec("my.module:Class", {"x": 1})]),
        ("random+my.module:Class:x=1", [Spec("random"), Spec("my.module:Class", {"x": 1})]),
        ("random:", [Spec("random")]),
    ],
)
def test_specs_are_read(text: str, specs: list[Spec]) -> None:
    assert parse(text) == specs
    assert parse("+".join(map(str, specs))) == specs


@pytest.mark.parametrize("text", ["", "random+", "+random", ":ratio=1", "random:ratio=0.5,ratio"])
def test_half_specs_are_refused(text: str) -> None:
    with pytest.raises(StrategyError):
        parse(text)


@pytest.mark.parametrize(
    ("slot", "text", "says"),
    [
        ("selector", "ppl-shedule", "unknown selector 'ppl-shedule' (did you mean 'ppl-schedule'?"),
        ("selector", "rel-entropy", "'rel-entropy' is a weighting"),
        ("selector", "random:ratoi=0.5", "unknown parameter 'ratoi' of selector 'random' (did you mean 'ratio'?"),
        ("selector", "full:ratio=0.5", "unknown parameter 'ratio' of selector 'full'; known: none"),
        ("selector", "random:ratio=0", "ratio=0: must be at least 0.0001"),
        ("selector", "random:ratio=much", "ratio='much'"),
        ("selector", "ppl-schedule:pacing=cubic", "pacing='cubic'"),
        ("weighting", "uniform+rel-entropy", "only selectors can be chained with '+', not a weighting"),
        (
            "selector",
            "no.such.module:Class",
            "selector 'no.such.module:Class' can't be imported: module 'no' was not found in",
        ),
        ("selector", "strategies.types:Nothing", "strategies/types.py) has no 'Nothing'"),
        (
            "selector",
            "my_selectors.py",
            "unknown selector 'my_selectors.py'; name its class: my_selectors.py:Class",
        ),
        ("selector", "strategies.types:Prompt", "'strategies.types:Prompt' is not a Selector"),
        ("budget", "strategies.selectors.full:Full", "is not a BudgetAllocator"),
    ],
)
def test_bad_specs_say_what_is_wrong_in_one_line(slot: str, text: str, says: str) -> None:
    with pytest.raises(StrategyError) as raised:
        create(slot, text, RUN)
    assert says in str(raised.value)
    assert "\n" not in str(raised.value)


def test_parameters_reach_the_strategy() -> None:
    built = create("selector", "ppl-schedule:ratio=0.5,pacing=sqrt", RUN)
    assert (built.params.ratio, built.params.pacing, built.params.scope) == (0.5, "sqrt", "question")
    assert built.run is RUN


def test_a_chain_hands_survivors_on_and_is_a_selector() -> None:
    chain = create("selector", "random:ratio=0.5+ppl-low:ratio=0.5", RUN)
    assert isinstance(chain, Chain)
    assert isinstance(chain, Selector)
    assert chain.name == "random+ppl-low"
    run = FakeRun({"selector": "random:ratio=0.5+ppl-low:ratio=0.5"})
    run.steps(1)
    assert run.stream.state_dict()["position"] == 4 * RUN.prompts_per_step
    assert run.probe.asked == 2 * RUN.prompts_per_step


def test_a_chain_refuses_the_state_of_another() -> None:
    first, second = (create("selector", text, RUN) for text in ("random+full", "full+random"))
    with pytest.raises(ValueError, match=r"written with selector 'random\+full', this run has 'full\+random'"):
        second.load_state_dict(first.state_dict())


@pytest.mark.usefixtures("clean")
def test_two_classes_of_one_name_collide_loudly() -> None:
    with pytest.raises(
        StrategyError, match=r"two strategies are registered as selector 'random': strategies\.selectors\."
    ):

        @register("random")
        class Mine(Selector):
            """Mine."""

    @register("random")
    class Budget(BudgetAllocator):
        """The same name in another slot is another strategy."""

    assert find("budget", "random") is Budget


@pytest.mark.usefixtures("clean")
def test_a_class_of_no_slot_is_refused() -> None:
    with pytest.raises(StrategyError, match="belongs to no slot; derive it from one of Selector"):

        @register("odd")
        class Odd(Strategy):
            """Odd."""


class Doubled(RolloutWeighting):
    """Every rollout weighs 2."""

    def weigh(self, batch: Batch, ctx: StepContext) -> FloatArray:
        return np.full((len(batch.rewards_N), 1), 2.0)


def test_a_dotted_path_needs_no_registration() -> None:
    text = f"{__name__}:Doubled"
    built = create("weighting", text, RUN)
    assert (built.slot, built.name) == ("weighting", "Doubled")
    records = FakeRun({"weighting": text}).steps(2)
    assert all((record.weights == 2).all() for record in records if record.weights is not None)
    assert "Doubled" not in [cls.name for cls in registry.listed()]


class Tripled(Doubled):
    """Every rollout weighs 3."""


def test_a_subclass_at_a_dotted_path_goes_by_its_own_name() -> None:
    parent, child = (create("weighting", f"{__name__}:{cls.__name__}", RUN) for cls in (Doubled, Tripled))
    assert (parent.name, child.name) == ("Doubled", "Tripled")


def test_a_plug_in_is_found_by_its_entry_point(install: Callable[[str, str], None]) -> None:
    from prepo_cli.commands.strategy_cards import card

    install("stranger_one", PLUGIN.format(name="backwards"))
    cls = find("selector", "backwards")
    assert cls in registry.listed()
    assert card(cls)["package"] == "stranger_one"
    assert card(cls)["description"] == "The stream backwards."


def test_a_plug_in_that_fails_to_import_is_named(install: Callable[[str, str], None]) -> None:
    install("stranger_two", "import no_such_module_at_all\n")
    with pytest.raises(StrategyError) as raised:
        registry.listed()
    message = str(raised.value)
    assert "plug-in 'stranger_two'" in message
    assert "No module named 'no_such_module_at_all'" in message
    assert "uninstall stranger_two" in message
    assert "\n" not in message


def test_two_plug_ins_with_one_name_are_both_named(install: Callable[[str, str], None]) -> None:
    install("stranger_three", PLUGIN.format(name="same"))
    install("stranger_four", PLUGIN.format(name="same"))
    with pytest.raises(StrategyError, match="two strategies are registered as selector 'same'") as raised:
        registry.listed()
    assert "stranger_three" in str(raised.value)
    assert "stranger_four" in str(raised.value)


def test_descriptions_are_the_first_line() -> None:
    assert registry.describe(Doubled) == "Every rollout weighs 2."
