"""Start one cell of the papers' tables: call `prepo train` with its files, recipe and run folder.

python examples/paper/run.py qwen2.5-math-1.5b prepo                 # further arguments are passed to prepo train
python examples/paper/run.py qwen2.5-math-1.5b prepo --tiny          # the same on the CPU with a tiny random model
python examples/paper/run.py qwen2.5-math-1.5b prepo --show          # only print the prepo train command
accelerate launch --config_file examples/accelerate/fsdp2.yaml examples/paper/run.py qwen2.5-math-7b prepo
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory

HERE = Path(__file__).resolve().parent
E3 = ("deepseek-r1-distill-qwen-1.5b", "deepseek-r1-distill-qwen-7b")
PREPO = ("qwen2.5-math-1.5b", "qwen2.5-math-7b", "qwen2.5-7b", "qwen3-4b", "llama-3.1-8b")
MODELS = dict.fromkeys(PREPO, "prepo-table.yaml") | dict.fromkeys(E3, "e3.yaml")
"""The papers' models, and the file with the settings that each shares with others."""
METHODS = {"prepo-table.yaml": ("random", "greso", "prepo"), "e3.yaml": ("grpo", "e3")}
"""The recipes in each paper's table; `grpo` is GRPO without selection. Any other recipe works too."""


def arguments(model: str, method: str, seed: int, extra: Sequence[str]) -> list[str]:
    """The arguments of `prepo` for one cell; `extra` comes last and takes precedence."""
    files = (HERE / MODELS[model], HERE / "models" / f"{model}.yaml")
    configs = [part for file in files for part in ("--config", _short(file))]
    folder = f"runs/paper/{model}-{method}-seed{seed}"
    return ["train", *configs, "--recipe", method, "--seed", str(seed), "--output-dir", folder, *extra]


def tiny_arguments(model: str, method: str, seed: int, folder: Path, extra: Sequence[str]) -> list[str]:
    """The same cell with a tiny random model on the embedded task; model and run are stored in `folder`."""
    from tiny import SETTINGS, STEPS, make_tiny

    small = ["--model", str(make_tiny(model, folder)), "--steps", str(STEPS), "--output-dir", str(folder / "run")]
    sets = [part for key, value in SETTINGS.items() for part in ("--set", f"{key}={value}")]
    return arguments(model, method, seed, [*small, *sets, *extra])


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the arguments and run prepo, which exits with its own exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("method", help="recipe: random, greso or prepo; for E3's models grpo or e3; or any other")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tiny", action="store_true", help="use a tiny random model: two steps on the CPU")
    parser.add_argument("--tiny-dir", type=Path, help="keep the tiny model and its run here instead of deleting them")
    parser.add_argument("--show", action="store_true", help="only print the prepo train command")
    args, extra = parser.parse_known_args(argv)
    if args.tiny_dir is not None and not args.tiny:
        parser.error("--tiny-dir needs --tiny")
    if args.show:
        print(f"PYTHONPATH={_short(HERE)} prepo", shlex.join(arguments(args.model, args.method, args.seed, extra)))
        return
    from prepo_cli.main import main as prepo

    if str(HERE) not in sys.path:
        sys.path.insert(0, str(HERE))
    if not args.tiny:
        prepo(arguments(args.model, args.method, args.seed, extra))
    with nullcontext(args.tiny_dir) if args.tiny_dir is not None else TemporaryDirectory() as folder:
        prepo(tiny_arguments(args.model, args.method, args.seed, Path(folder), extra))


def _short(path: Path) -> str:
    """The path, relative if it is below the working directory."""
    cwd = Path.cwd()
    return str(path.relative_to(cwd)) if path.is_relative_to(cwd) else str(path)


if __name__ == "__main__":
    main()
