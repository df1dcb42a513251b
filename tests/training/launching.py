"""Runs started for real, in one process or several, and compared."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file

from tests.forked import Ended, Prepo
from tests.metrics import timeless

needs_deepspeed = pytest.mark.skipif(find_spec("deepspeed") is None, reason="not run: DeepSpeed is not installed")
ROOT = Path(__file__).parents[2]
HOST = "127.0.0.1"
SMALL = [
    "training.total_steps=5",
    "training.prompts_per_step=6",
    "training.num_generations=4",
    "training.max_completion_length=64",
    "training.max_tokens_per_micro_batch=700",
    "training.save_steps=1",
    "training.save_total_limit=10",
    "training.learning_rate=1e-3",
    "evaluation.dataset_name=null",
    "reporting.figures=false",
    "rewards.workers=1",
]
RECIPES = {
    "prepo": ["recipe=prepo"],
    "greso-e3": ["strategies.selector=greso", "strategies.budget=e3", "strategies.weighting=rel-entropy"],
    "adapters": ["recipe=random", "model.use_peft=true", "model.lora_r=4", "training.beta=0.1",
                 "training.mini_batch_prompts=3", "training.num_iterations=2", "training.learning_rate=2e-4"],
}  # fmt: skip
# AdamW divides a gradient that is all rounding by its own size; with a larger epsilon it counts for next to nothing.
RECIPES["steady"] = [*RECIPES["greso-e3"], "training.adam_epsilon=1e-6"]
CHUNK = 652 * 40
"""Logits of 40 tokens of the embedded model: batches then differ in how often they go through the output matrix."""
LAYOUTS: dict[str, dict[str, str]] = {
    "one": {},
    "two": {},
    "nodes": {},
    "sharded": {},
    "zero1": {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "1"},
    "zero2": {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "2"},
    "zero3": {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"},
}
"""Ways to start a run and what they set in the environment: two processes but for "one"; "nodes" are apart."""


def launch(
    arguments: Sequence[str], processes: int, accelerate: Sequence[str] = (), **environment: str
) -> subprocess.CompletedProcess[str]:
    """A command in one process or, through torchrun, several; or through accelerate with its own arguments."""
    front = [sys.executable]
    if accelerate:
        front += ["-m", "accelerate.commands.launch", *accelerate, "--num_processes", str(processes)]
    elif processes > 1:
        front += ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    env = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)} | environment
    return subprocess.run([*front, *arguments], cwd=ROOT, env=env, capture_output=True, text=True, timeout=300)


def free_port() -> str:
    with socket.socket() as free:
        free.bind((HOST, 0))
        return str(free.getsockname()[1])


def launch_nodes(arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """A command on two nodes, which are this machine, one process each; what the first one said."""
    settings = ["--nnodes", "2", "--nproc_per_node", "1", "--master_addr", HOST, "--master_port", free_port()]
    with ThreadPoolExecutor(2) as pool:
        nodes = [["-m", "torch.distributed.run", *settings, "--node_rank", rank, *arguments] for rank in "01"]
        first, second = pool.map(lambda node: launch(node, 1), nodes)
    assert second.returncode == 0, second.stderr[-3000:]
    return first


@cache
def forked() -> Prepo:
    """Where processes come from that a launcher would start; it ends with this process."""
    stack = ExitStack()
    atexit.register(stack.close)
    return stack.enter_context(Prepo())


def fork(module: str, argument: str, processes: int, **environment: str) -> Ended:
    """A module's `main` in one process or several, with the environment that torchrun would give each."""
    shared, ranks = {"ACCELERATE_USE_CPU": "true", **environment}, list[dict[str, str]]([{}])
    if processes > 1:
        count = str(processes)
        shared |= {"MASTER_ADDR": HOST, "MASTER_PORT": free_port(), "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
        ranks = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(processes)]
    started = [forked().start(argument, module=module, environment=shared | rank) for rank in ranks]
    return max((process.wait() for process in started), key=lambda ended: abs(ended.code))


def replay(
    folder: Path, layout: str, sets: Sequence[str], resume: bool = False, chunk_elements: int | None = None
) -> Path:
    """A run on fixed rollouts; returns its folder."""
    settings = folder.with_suffix(".json")
    fixed = [*SMALL, "rewards.functions=[tests.training.rewards:zero]", f"output_dir={folder}"]
    fixed += ["training.fsdp=true"] if layout == "sharded" else []
    settings.write_text(json.dumps({"sets": [*fixed, *sets], "resume": resume, "chunk_elements": chunk_elements}))
    module = "tests.training.replayed"
    if layout == "nodes":
        done = launch_nodes(["-m", module, str(settings)])
        assert done.returncode == 0, done.stderr[-3000:]
    else:
        ended = fork(module, str(settings), 1 if layout == "one" else 2, **LAYOUTS[layout])
        assert ended.code == 0, ended.err[-3000:]
    return folder


def interrupted(finished: Path, folder: Path, after: int) -> Path:
    """A copy of a run as if it had been stopped after a step."""
    shutil.copytree(finished, folder)
    for checkpoint in sorted((folder / "checkpoints").iterdir())[after:]:
        shutil.rmtree(checkpoint)
    return folder


def prompts(folder: Path) -> list[list[tuple[str, float, str]]]:
    """Prompt, reward and text of every rollout, by step."""
    tables = [pq.read_table(path).to_pydict() for path in sorted((folder / "rollouts").glob("*.parquet"))]
    return [list(zip(t["prompt_id"], t["reward"], t["text"], strict=True)) for t in tables]


def assert_same_run(one: Path, other: Path) -> None:
    assert prompts(one) == prompts(other)
    for ours, theirs in zip(timeless(one), timeless(other), strict=True):
        assert ours.keys() == theirs.keys()
        for key, value in ours.items():
            assert theirs[key] == pytest.approx(value, rel=1e-5, abs=1e-5), key
    ours_state, theirs_state = (load_file(folder / "final" / "model.safetensors") for folder in (one, other))
    assert ours_state.keys() == theirs_state.keys()
    for name, weight in ours_state.items():
        np.testing.assert_allclose(theirs_state[name], weight, atol=1e-5, rtol=0, err_msg=name)


def command(folder: Path, model: Path, *more: str) -> list[str]:
    sets = [part for item in SMALL for part in ("--set", item)]
    return ["-m", "prepo_cli", "train", "--output-dir", str(folder), "--model", str(model),
            "--dataset", "embedded", *sets, *more]  # fmt: skip
