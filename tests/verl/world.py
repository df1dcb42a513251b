"""verl without Ray: its own trainer, configuration, agent loops and replay buffer, with everything on a GPU made up.

A fake server answers prompts, a fake worker has log-probs, entropies and updates, and a fake judge gives rewards that
depend only on the prompt and the number of the answer to it.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import transfer_queue as tq
import verl.trainer
from datasets import Dataset
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from tensordict import TensorDict
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.v1 import AgentLoopWorkerTQ, get_trainer_cls
from verl.utils import tensordict_utils as tu
from verl.workers.rollout.replica import TokenOutput

from strategies.types import Prompt

MODEL = Path(__file__).parents[2] / "prepo_cli" / "assets" / "model"
CONFIG = Path(verl.trainer.__file__).parent / "config"
WORKER = AgentLoopWorkerTQ.__ray_metadata__.modified_class
"""verl's agent loop worker as it was before Ray wrapped it."""
RESPONSE_LENGTH = 12


def config(folder: Path, *overrides: str, rows: int = 24, prompts: Sequence[Prompt] | None = None) -> DictConfig:
    """verl's own configuration of a run with groups of 4 on `rows` questions, or on one for each prompt."""
    folder.mkdir(exist_ok=True)
    path = folder / f"train-{rows}.parquet"
    write_rows(path, prompts or [Prompt(i, f"q{i}", ["even", "odd"][i % 2], i / rows, ppl=50 - i) for i in range(rows)])
    with initialize_config_dir(config_dir=str(CONFIG), version_base=None):
        composed = compose(
            "ppo_trainer",
            overrides=[
                "trainer.device=cpu",
                f"data.train_files={path}",
                f"data.val_files={path}",
                "data.train_batch_size=6",
                "data.seed=3",
                "data.dataloader_num_workers=0",
                f"data.max_response_length={RESPONSE_LENGTH}",
                f"actor_rollout_ref.model.path={MODEL}",
                "actor_rollout_ref.model.use_remove_padding=False",
                "actor_rollout_ref.rollout.n=4",
                "actor_rollout_ref.rollout.name=vllm",
                "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=1",
                "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=1",
                "actor_rollout_ref.actor.ppo_mini_batch_size=6",
                "algorithm.adv_estimator=grpo",
                "trainer.logger=[]",
                "trainer.val_before_train=False",
                "trainer.test_freq=-1",
                "trainer.save_freq=-1",
                "trainer.n_gpus_per_node=1",
                "trainer.total_training_steps=10",
                "trainer.total_epochs=1000",
                f"trainer.default_local_dir={folder / 'checkpoints'}",
                *overrides,
            ],
        )
    OmegaConf.resolve(composed)
    return composed


def write_rows(path: Path, prompts: Sequence[Prompt]) -> None:
    Dataset.from_list(
        [
            {
                "prompt": [{"role": "user", "content": f"What is {p.index} + {p.index}?"}],
                "data_source": p.source,
                "reward_model": {"style": "rule", "ground_truth": str(2 * p.index)},
                "extra_info": {"index": p.index},
                "id": p.id,
                "ppl": p.ppl,
                "difficulty": p.difficulty,
                "rank": p.rank,
                "pass_rate": p.pass_rate,
            }
            for p in prompts
        ]
    ).to_parquet(path)


def draw(*parts: object) -> np.random.Generator:
    """Random numbers that depend on nothing but `parts`."""
    return np.random.default_rng(int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "little"))


class Server:
    """Answers prompts with random tokens; the n-th answer to a prompt is always the same, at any temperature."""

    def __init__(self) -> None:
        self.answers: Counter[tuple[int, ...]] = Counter()
        self.temperatures: list[float] = []

    async def generate(self, prompt_ids: list[int], sampling_params: dict[str, Any], **_: Any) -> TokenOutput:
        prompt = tuple(prompt_ids)
        number = self.answers[prompt]
        self.answers[prompt] += 1
        self.temperatures.append(sampling_params["temperature"])
        rng = draw(prompt, number)
        tokens = rng.integers(10, 200, size=int(rng.integers(1, RESPONSE_LENGTH + 1))).tolist()
        return TokenOutput(
            token_ids=tokens,
            log_probs=[-0.5] * len(tokens),
            extra_fields={"min_global_steps": 0, "max_global_steps": 0},
        )


class Judge:
    """Rewards by prompt: rows below `never` are never right, from `always` on always right, others by chance."""

    def __init__(self, never: int = 0, always: int = 10**9) -> None:
        self.never, self.always = never, always
        self.failing: set[int] = set()
        self.seen: list[tuple[int, list[int], float]] = []
        self.compute_score = SimpleNamespace(remote=self.judge)

    async def judge(self, data: Any) -> dict[str, Any]:
        row = int(data.non_tensor_batch["index"][0])
        if row in self.failing:
            raise RuntimeError(f"row {row} fails")
        answer = data.batch["responses"][0].tolist()
        reward = 0.0 if row < self.never else 1.0 if row >= self.always else float(sum(answer) % 3 == 0)
        self.seen.append((row, answer, reward))
        return {"reward_score": reward, "reward_extra_info": {"acc": reward}}


class AgentLoops:
    """verl's agent loop worker, run until all of its rollouts have ended."""

    def __init__(self, config: DictConfig, server: Server, judge: Judge) -> None:
        self.worker = WORKER(config, server, None, [judge])
        self.batches: list[TensorDict] = []

    def generate_sequences(self, batch: TensorDict) -> None:
        self.batches.append(batch.clone())

        async def run() -> None:
            # One thread ends its work in order, so that the server is asked in the same order in every run.
            asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(max_workers=1))
            await self.worker.generate_sequences(batch)
            await asyncio.gather(*self.worker.background_tasks)

        asyncio.run(run())


class Worker:
    """The actor: log-probs and entropies drawn by tokens, and updates that note what they are given."""

    def __init__(self) -> None:
        self._dispatch_info = {"actor": [0, 1]}
        self.temperatures: list[float] = []
        self.updates: list[dict[str, Any]] = []
        self.saved: list[str] = []

    def compute_log_prob(self, batch: KVBatchMeta) -> KVBatchMeta:
        self.temperatures.append(batch.extra_info["temperature"])
        data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=["input_ids"])
        scored = [
            self.score(row.tolist(), tag, batch.extra_info["temperature"])
            for row, tag in zip(data["input_ids"].unbind(0), batch.tags, strict=True)
        ]
        columns = {
            name: torch.nested.as_nested_tensor(
                [torch.from_numpy(row[i]).float() for row in scored], layout=torch.jagged
            )
            for i, name in enumerate(("log_probs", "entropy"))
        }
        return tq.kv_batch_put(
            keys=batch.keys, partition_id=batch.partition_id, fields=TensorDict(columns, batch_size=len(batch))
        )

    def score(self, ids: list[int], tag: dict[str, Any], temperature: float) -> np.ndarray:
        """Log-prob and entropy [2, L], whose entries are those of the next token."""
        return draw("log-probs", ids).random((2, len(ids))) * [[-1], [1]]

    def update_actor(self, batch: KVBatchMeta) -> dict[str, Any]:
        self.temperatures.append(batch.extra_info["temperature"])
        data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id)
        self.updates.append(
            {
                "keys": list(batch.keys),
                "padding": [tag.get("is_padding", False) for tag in batch.tags],
                "uid": list(data["uid"]),
                "index": list(data["index"]),
            }
            | {
                name: [row.numpy() for row in data[name].unbind(0)]
                for name in ("responses", "response_mask", "rm_scores", "advantages", "entropy")
            }
        )
        return {"metrics": {"loss": [0.5], "grad_norm": [1.0], "mfu": [0.0]}}

    def save_checkpoint(self, path: str, *_: Any, **__: Any) -> None:
        self.saved.append(path)
        Path(path).mkdir(parents=True)

    def load_checkpoint(self, **_: Any) -> None: ...


class World:
    """A trainer of verl's that is ready for `fit`."""

    def __init__(
        self, config: DictConfig, judge: Judge | None = None, server: Any = None, worker: Worker | None = None
    ) -> None:
        self.server, self.judge, self.worker = server or Server(), judge or Judge(), worker or Worker()
        self.trainer = trainer = get_trainer_cls(config.trainer.v1.trainer_mode)(config)
        trainer._init_tokenizer()
        trainer._init_dataloader()
        trainer._init_dump_executor()
        trainer.actor_rollout_wg = self.worker
        trainer.checkpoint_manager = SimpleNamespace(update_weights=lambda _: None, sleep_replicas=lambda: None)
        trainer.reward_loop_manager = SimpleNamespace(reward_loop_worker_handles=[self.judge])
        trainer.resource_pool_manager = SimpleNamespace(get_n_gpus=lambda: 1)
        trainer.distillation_config = None
        trainer.replay_buffer.poll_interval = 0.0
        self.loops = AgentLoops(config, self.server, self.judge)
        trainer._load_checkpoint()

    def fit(self) -> World:
        """Train to the end, with verl's own loop."""
        self.trainer.fit(self.loops)
        return self

    def rows(self) -> list[list[int]]:
        """The rows of each batch that was submitted."""
        return [
            batch["index"] if isinstance(batch["index"], list) else tu.get(batch, "index")
            for batch in self.loops.batches
        ]
