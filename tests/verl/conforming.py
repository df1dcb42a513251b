"""The adapter and verl's own trainer over the fakes of the conformance tests."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from verl.workers.rollout.replica import TokenOutput

from prepo_cli.integrations import verl_trainer as adapter
from prepo_cli.integrations.verl_data import Order
from strategies.types import Prompt, RunInfo
from tests.fakes import MAX_ROUNDS, FakeProbe, Record, make_prompts, make_run
from tests.integrations.conformance import Generator, Watched, fake_entropies
from tests.verl.queue import MemoryQueue
from tests.verl.world import MODEL, Judge, Worker, World, config


class VerlWorld:
    """A run of verl's trainer that stops and is gone on with as often as it is asked for steps."""

    def __init__(self, slots: Mapping[str, str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from transformers import AutoTokenizer

        self.slots, self.folder, self.monkeypatch = slots, folder, monkeypatch
        self.tokenizer = AutoTokenizer.from_pretrained(MODEL)
        self.prompts = [self._with_length(prompt) for prompt in make_prompts()]
        self.run = make_run(num_generations=4, vocab_size=len(self.tokenizer), columns=make_run().columns | {"id"})
        self._maker = Generator(self.run, self.prompts)
        self._config = self._make_config()
        self.order = Order(self._config.data, self.prompts, self.run.prompts_per_step)
        self._done, self._costs = 0, {}

    @property
    def generated(self) -> list[Any]:
        return self._maker.generated

    def costs(self) -> dict[str, float]:
        return self._costs

    def steps(self, count: int) -> list[Record]:
        MemoryQueue().install(self.monkeypatch)
        made: list[Watched] = []

        def watched(given: Mapping[str, str], run: RunInfo, temperature: float) -> Watched:
            assert given == self.slots and run == self.run and temperature == 1.0
            made.append(Watched(given, run))
            return made[0]

        self.monkeypatch.setattr(adapter, "strategy_set", watched)
        world = World(self._make_config(), _Judge(), self, _Worker())
        trainer = self._trainer = world.trainer
        trainer.session.probe = FakeProbe()
        assert trainer.global_steps == self._done
        self._done += count
        trainer.total_training_steps = self._done  # where it stops and saves; the strategies know of 20 steps
        logged: list[dict[str, float]] = []
        self.monkeypatch.setattr("verl.trainer.ppo.v1.trainer_base.Tracking", lambda **_: Tracker(logged))
        world.fit()
        self._costs = {name: value for name, value in logged[-1].items() if name.startswith("cost/")}
        return made[0].records

    async def generate(self, prompt_ids: list[int], sampling_params: dict[str, Any], **_: Any) -> TokenOutput:
        """verl's server: the next fake rollout of the prompt."""
        found = re.search(r"What is (\d+) \+", self.tokenizer.decode(prompt_ids))
        assert found is not None
        rollout = self._maker(self._trainer.session.step, int(found[1]), sampling_params["temperature"])
        return TokenOutput(
            token_ids=rollout.token_ids,
            log_probs=rollout.logprobs.tolist(),
            extra_fields={"min_global_steps": 0, "max_global_steps": 0},
        )

    def _with_length(self, prompt: Prompt) -> Prompt:
        messages = [{"role": "user", "content": f"What is {prompt.index} + {prompt.index}?"}]
        ids = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
        return replace(prompt, num_tokens=len(ids))

    def _make_config(self) -> Any:
        slots = [f"+prepo.{slot}='{text}'" for slot, text in self.slots.items()]
        return config(
            self.folder,
            "trainer.v1.trainer_mode=prepo",
            f"+prepo.max_rounds={MAX_ROUNDS}",
            f"+prepo.seed={self.run.seed}",
            *slots,
            f"actor_rollout_ref.rollout.n={self.run.num_generations}",
            f"trainer.total_training_steps={self.run.total_steps}",
            "trainer.save_freq=1000",
            prompts=self.prompts,
        )


class Tracker:
    def __init__(self, logged: list[dict[str, float]]) -> None:
        self._logged = logged

    def log(self, data: dict[str, float], step: int) -> None:
        self._logged.append(data)


class _Judge(Judge):
    async def judge(self, data: Any) -> dict[str, Any]:
        reward = float(data.batch["responses"][0][0])
        return {"reward_score": reward, "reward_extra_info": {}}


class _Worker(Worker):
    def score(self, ids: list[int], tag: dict[str, Any], temperature: float) -> npt.NDArray[np.floating[Any]]:
        length = tag["response_len"]
        scores = np.zeros((2, len(ids)))
        scores[1, -length - 1 : -1] = fake_entropies(length, bool(ids[-1]), temperature)
        return scores
