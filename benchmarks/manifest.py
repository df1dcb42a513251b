"""What verifying a checkpoint adds to resuming: seconds to hash all its files against seconds to load them.

The model has random weights, the optimizer both moments. Loading is what a resumed run does: the model with its
tokenizer, and every tensor of the optimizer copied out of its mapped file. Both read from the page cache, as after the
first of the two has read the disk; they take turns, so that a slow minute of the machine hits both. Wall-clock times
are meaningful only on an idle machine; CPU times, of all cores together, depend less on other load.

    python -m benchmarks.manifest                       # about 300 MB of weights, seven rounds
    python -m benchmarks.manifest --width 256 --rounds 3
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter, process_time
from typing import Any

import torch
from transformers import AutoModelForCausalLM, Qwen2Config

from prepo_cli.config import ASSETS
from prepo_cli.machine import cores
from prepo_cli.manifest import verify, write_manifest
from prepo_cli.policy.loading import load_policy, load_tokenizer
from prepo_cli.sections import ModelConfig
from prepo_cli.training import checkpoint

LAYERS = 12


def write(folder: Path, width: int) -> None:
    """A checkpoint's large files: a random model of that width and its moments."""
    tokenizer = load_tokenizer(str(ASSETS / "model"))
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=4 * width, num_hidden_layers=LAYERS,
        num_attention_heads=width // 64, num_key_value_heads=width // 64, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    moments = {name: {"exp_avg": torch.randn_like(p), "exp_avg_sq": torch.rand_like(p)} for name, p in
               model.named_parameters()}  # fmt: skip
    checkpoint.write_optimizer(folder, moments)


def load(folder: Path) -> None:
    """Load what a resumed run loads."""
    load_policy(ModelConfig(model_name_or_path=str(folder / "model")), device="cpu")
    for moments in checkpoint.read_optimizer(folder).values():
        for moment in moments.values():
            moment.clone()


def timed(work: Callable[[], Any]) -> tuple[float, float]:
    """Seconds that it takes, and seconds of CPU time on all cores."""
    started, before = perf_counter(), process_time()
    work()
    return perf_counter() - started, process_time() - before


def spread(values: Sequence[float], unit: str = " s") -> str:
    """Median and extremes.

    >>> spread([1.0, 3.0, 2.0])
    '2.00 s (1.00 to 3.00)'
    """
    return f"{median(values):.2f}{unit} ({min(values):.2f} to {max(values):.2f})"


def main() -> None:
    """Print the times and the ratio of verifying to loading."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=640, help="a multiple of 64")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    with TemporaryDirectory(prefix="prepo-manifest-") as scratch:
        folder = Path(scratch)
        (folder / "model").mkdir()
        write(folder, arguments.width)
        write_manifest(folder)
        rounds = [(timed(lambda: verify(folder)), timed(lambda: load(folder))) for _ in range(arguments.rounds + 1)]
        sizes = [path.stat().st_size / 1e6 for path in folder.rglob("*") if path.is_file()]
    del rounds[0]  # it warms the page cache
    print(f"{sum(sizes):,.0f} MB in {len(sizes)} files, the largest {max(sizes):,.0f} MB; {cores()} cores")
    for number, kind in enumerate(("wall clock", "CPU time")):
        verifying, loading = ([times[number] for times in column] for column in zip(*rounds, strict=True))
        ratios = [one / other for one, other in zip(verifying, loading, strict=True)]
        print(f"{kind:<10}  verify {spread(verifying)}, load {spread(loading)}, ratio {spread(ratios, '')}")


if __name__ == "__main__":
    main()
