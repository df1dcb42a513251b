"""What shares a folder with prepo: a second process, which is refused, and files of others, of which none is lost."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import psutil
import pytest

from prepo_cli.ownership import LOCK
from tests.chaos.test_full_disk import outputs
from tests.chaos.test_kills import content
from tests.forked import Ended, Prepo, Process

TRAIN = [
    "train", "--recipe", "everything", "--seed", "3", "--steps", "3", "--json", "--reward", "boxed",
    *[f"--set={setting}" for setting in (
        "training.prompts_per_step=2", "training.num_generations=4", "training.max_completion_length=24",
        "training.save_steps=1", "training.save_total_limit=2", "training.learning_rate=2e-4",
        "evaluation.limit=2", "evaluation.num_samples=2", "strategies.weighting=tests.training.poison:Steps",
    )],
]  # fmt: skip
START, RESUME, OVERWRITE = [], ["--resume"], ["--overwrite"]
MODES = {"start": START, "resume": RESUME, "overwrite": OVERWRITE}
PAIRS = list(product(MODES, MODES))
STOPS = ["/.partial-config.yaml", "open /metrics.jsonl", "/.partial-final"]
"""Where the first process stands while others try: before it has a configuration, after a step, and at its end."""
SAMPLING = ["--k", "2", "--max-completion-length", "8", "--reward", "boxed"]


@pytest.fixture(scope="module")
def prepo() -> Iterator[Prepo]:
    with Prepo() as prepo:
        yield prepo


@pytest.fixture(scope="module")
def alone(prepo: Prepo, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody disturbed."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    ended = prepo(*TRAIN, "--output-dir", str(folder))
    assert ended.code == 0, ended.err
    return folder


@pytest.fixture(scope="module")
def killed(prepo: Prepo, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run, killed in its third step."""
    folder = tmp_path_factory.mktemp("killed") / "run"
    process = prepo.start(*TRAIN, "--output-dir", str(folder), stop=["/.partial-step-000003"])
    end(process)
    assert (folder / "checkpoints" / "step-000002").is_dir()
    return folder


def end(process: Process) -> None:
    """Kill a process once it has stopped itself."""
    process.until_stopped()
    process.send(signal.SIGKILL)
    assert process.wait().code == -signal.SIGKILL


def everything(folder: Path) -> dict[str, Any]:
    """All that is below a folder: the content of files, the targets of links."""
    return {str(path.relative_to(folder)): what(path) for path in folder.rglob("*")}


def what(path: Path) -> bytes | str | None:
    if path.is_symlink():
        return os.readlink(path)
    return path.read_bytes() if path.is_file() else None


def refused(ended: Ended, *phrases: str) -> None:
    """In one line, which has one of the phrases."""
    assert ended.code == 2 and ended.out == "", ended
    assert ended.err.count("\n") == 1 and any(phrase in ended.err for phrase in phrases), ended.err


@pytest.mark.parametrize("first", MODES)
def test_a_run_in_use_is_refused_whatever_the_second_wants(
    prepo: Prepo, alone: Path, killed: Path, tmp_path: Path, first: str
) -> None:
    folder = tmp_path / "run"
    if first != "start":
        shutil.copytree(killed if first == "resume" else alone, folder)
    argv = [*TRAIN, "--output-dir", str(folder)]
    process = prepo.start(*argv, *MODES[first], stop=STOPS)
    in_use = f"{folder} is in use by process {process.pid} on "
    for stop in STOPS:
        process.until_stopped()
        before = everything(folder)
        refused(prepo(*argv), in_use)
        refused(prepo(*argv, "--resume"), in_use)
        refused(prepo(*argv, "--overwrite"), in_use)
        assert everything(folder) == before, stop
        process.send(signal.SIGCONT)
    ended = process.wait()
    assert ended.code == 0, ended.err
    assert content(folder) == content(alone)
    assert not (folder / LOCK).exists()


@pytest.mark.parametrize(("one", "other"), PAIRS, ids=map(" and ".join, PAIRS))
def test_of_two_that_begin_at_once_one_runs(
    prepo: Prepo, alone: Path, killed: Path, tmp_path: Path, one: str, other: str
) -> None:
    folder = tmp_path / "run"
    if {one, other} - {"start"} and {one, other} != {"start", "overwrite"}:
        shutil.copytree(killed, folder)
    argv = [*TRAIN, "--output-dir", str(folder)]
    both = [prepo.start(*argv, *MODES[mode]) for mode in (one, other)]
    loser, winner = sorted((process.wait() for process in both), key=lambda ended: -ended.code)
    refused(loser, f"{folder} is in use by ", f"{folder} already contains a run: ")
    assert winner.code == 0, winner.err
    assert content(folder) == content(alone)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rows = [{"question": f"What is {number} + 1?", "answer": str(number + 1)} for number in range(6)]
    (tmp_path / "data.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return tmp_path / "data.jsonl"


OUTPUTS = {
    "score-ppl": (["score-ppl", "{data}", "--output", "{folder}/scored.jsonl"], "/.partial-scored.jsonl"),
    "score-passrate": (
        ["score-passrate", "{data}", "--output", "{folder}/scored.csv", *SAMPLING], "/.partial-scored.csv"
    ),
    "eval": (
        ["eval", "--dataset", "{data}", "--split", "train", "--output-dir", "{folder}", *SAMPLING],
        "/.partial-config.yaml",
    ),
    "compare": (["compare", "{run}", "--output-dir", "{folder}"], "/.partial-page.html"),
}  # fmt: skip
"""Command lines, and where one has finished chunks, or pictures, and is not done."""


@pytest.mark.parametrize("name", OUTPUTS)
def test_an_output_in_use_is_refused(prepo: Prepo, alone: Path, data: Path, tmp_path: Path, name: str) -> None:
    words, stop = OUTPUTS[name]
    folder = tmp_path / "out"
    argv = [word.format(data=data, folder=folder, run=alone) for word in words]
    folder.mkdir()
    assert prepo(*argv).code == 0
    undisturbed = outputs(folder)
    shutil.rmtree(folder)
    folder.mkdir()
    process = prepo.start(*argv, stop=[stop])
    process.until_stopped()
    before = everything(folder)
    for flags in ([], ["--break-lock"], *([OVERWRITE] if name != "compare" else [])):
        refused(prepo(*argv, *flags), f" is in use by process {process.pid} on ")
    assert everything(folder) == before
    process.send(signal.SIGCONT)
    assert process.wait().code == 0
    assert outputs(folder) == undisturbed
    shutil.rmtree(folder)
    folder.mkdir()
    loser, winner = sorted((each.wait() for each in [prepo.start(*argv), prepo.start(*argv)]), key=lambda e: -e.code)
    refused(loser, " is in use by process ")
    assert winner.code == 0, winner.err
    assert outputs(folder) == undisturbed


@pytest.fixture(scope="module")
def study(prepo: Prepo, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A command line whose study another one, and one that trains its run, have tried to join."""
    folder = tmp_path_factory.mktemp("study") / "study"
    argv = ["compare", "--recipes", "random", "--output-dir", str(folder), *TRAIN[5:]]
    run, settings = folder / "random-seed0", str(folder / "logs" / "random-seed0.yaml")
    process = prepo.start(*argv)
    training = wait_for_holder(run / LOCK, process)
    os.kill(training, signal.SIGSTOP)
    refused(prepo(*argv), f"{folder} is in use by process {process.pid} on ")
    refused(prepo("train", "--config", settings, "--overwrite"), f"{run} is in use by process {training} on ")
    os.kill(training, signal.SIGCONT)
    assert process.wait().code == 0
    assert prepo("train", "--config", settings, "--output-dir", str(folder.parent / "alone")).code == 0
    assert content(run) == content(folder.parent / "alone")
    return argv


def wait_for_holder(lock: Path, process: Process) -> int:
    """The process that holds a lock, once there is one."""
    while True:
        assert psutil.Process(process.pid).status() != psutil.STATUS_ZOMBIE, process.wait()
        with suppress(FileNotFoundError, json.JSONDecodeError):
            return int(json.loads(lock.read_text())["pid"])
        time.sleep(0.02)


LIKE_OURS = {
    "run": (
        ".partial-mine", ".partial-step-mine", "README.md.orig", "config.yaml.bak", "metrics.jsonl.damaged",
        "metrics.jsonl.damaged-1", "summary.json~", "summary-old.json", "learning_curve (copy).png",
        "checkpoints/.partial-notes", "checkpoints/weights.bin", "checkpoints/step-best/state.json",
        "checkpoints/step-1/state.json", "checkpoints/damaged-step-000001/notes", "checkpoints/step-000001.tar",
        "figures/learning_curve.png", "final/thesis.tex", "final-old/model.safetensors", "logs/run.log",
        "rollouts/.partial-mine.parquet", "rollouts/step_000000.parquet.bak", "rollouts/step_0.parquet",
        "rollouts/step_000000-copy2.parquet", "skipped/step_2.parquet", "skipped/step_000002-mine3.parquet",
        "tensorboard/notes", "trackio/notes", "wandb/notes",
    ),
    "scored": (
        ".partial-mine", "scored.jsonl.orig", "scored.jsonl.partial-mine/chunk-000000.parquet", "scored-2.jsonl",
        "plot.png.orig", "scored.jsonl.partial/.partial-mine", "scored.jsonl.partial/chunk-000000.parquet.bak",
        "scored.jsonl.partial/chunk-000000-copy2.parquet", "scored.jsonl.partial/chunk-1.parquet",
    ),
    "evaluation": (
        ".partial-mine", "README.md", "samples.parquet.bak", "summary-old.json", "config.yaml.bak", "figures/plot.png",
        "partial/.partial-mine", "partial/chunk-000000-copy2.parquet", "partial/chunk-1.parquet", "metrics.jsonl",
    ),
    "comparison": (
        ".partial-mine", "README.md", "page.html.bak", "budgets-old.png", "page_files/style.css", "logs/notes",
        "logs/random-seed0.log.1", "random-seed0/notes", "random-seed0-copy/config.yaml", "figures/plot.png",
    ),
}  # fmt: skip
"""Files of somebody whose names are nearly ours."""


@dataclass
class Neighbors:
    """Files, folders and links of others in every folder of an output, and what the links lead to."""

    root: Path
    elsewhere: Path
    planted: dict[Path, bytes | str | None] = field(default_factory=dict)

    def plant(self, names: Sequence[str] = (), but: Sequence[str] = ()) -> None:
        """Add those of these names, and more in all folders except some."""
        for name in names:
            self._write(self.root / name)
        below = [path for path in self.root.rglob("*") if path.is_dir() and not path.is_symlink()]
        for folder in [self.root, *below]:
            if folder in self.planted or any(folder.is_relative_to(self.root / name) for name in but):
                continue
            self._write(folder / "notes.txt")
            self._write(folder / "mine" / "notes.txt")
            (folder / "empty").mkdir(exist_ok=True)
            for name, target in (("link", "file"), ("linked", "folder"), ("dangling", "nowhere")):
                self.link(folder / name, self.elsewhere / target)
            self.planted |= {path: what(path) for path in (folder / "mine", folder / "empty")}
        if not self.elsewhere.exists():
            self._write(self.elsewhere / "file")
            self._write(self.elsewhere / "folder" / "file")

    def link(self, path: Path, target: Path) -> None:
        if not path.is_symlink():
            path.symlink_to(target)
            self.planted[path] = str(target)

    def _write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not os.path.lexists(path):
            path.write_text(f"mine: {path}")
            self.planted[path] = what(path)

    @property
    def lost(self) -> list[Path]:
        """What is not there any more as it was, not even in a checkpoint's folder that was set aside with it."""
        return [path for path in self.planted if not any(map(partial(self._is_at, path), self._places(path)))]

    def _is_at(self, path: Path, place: Path) -> bool:
        return os.path.lexists(place) and what(place) == self.planted[path]

    def _places(self, path: Path) -> Iterator[Path]:
        yield path
        if path.is_relative_to(self.root / "checkpoints"):
            step, *rest = path.relative_to(self.root / "checkpoints").parts
            yield from (folder.joinpath(*rest) for folder in (self.root / "checkpoints").glob(f"damaged-{step}*"))


@pytest.fixture
def neighbors(tmp_path: Path) -> Neighbors:
    return Neighbors(tmp_path / "out", tmp_path / "elsewhere")


@pytest.mark.parametrize("mode", MODES)
def test_a_run_leaves_what_is_not_its_own(
    prepo: Prepo, alone: Path, killed: Path, neighbors: Neighbors, mode: str
) -> None:
    """A killed run; resumed, it has others' files everywhere but in the checkpoint that it goes on from."""
    run, copies = neighbors.root, [f"checkpoints/step-00000{number}-copy2" for number in (1, 2)]
    shutil.copytree(killed, run)
    for name in copies:
        shutil.copytree(run / name.removesuffix("-copy2"), run / name)
    copied = [everything(run / name) for name in copies]
    neighbors.plant(LIKE_OURS["run"], but=[*copies, *(["checkpoints/step-000002"] if mode == "resume" else [])])
    before = everything(run)
    ended = prepo(*TRAIN, "--output-dir", str(run), *MODES[mode])
    assert neighbors.lost == []
    if mode == "start":
        refused(ended, f"{run} already contains a run: ")
        assert everything(run) == before
        return
    assert ended.code == 0, ended.err
    found = content(run)
    found["files"] = {name: text for name, text in found["files"].items() if run / name not in neighbors.planted}
    assert found == content(alone)
    neighbors.plant(but=copies)
    ended = prepo(*TRAIN, "--output-dir", str(run), "--overwrite")
    assert (ended.code, neighbors.lost) == (0, []), ended.err
    assert [everything(run / name) for name in copies] == copied


def test_others_in_the_newest_checkpoint_are_set_aside_with_it(
    prepo: Prepo, killed: Path, neighbors: Neighbors
) -> None:
    run = neighbors.root
    shutil.copytree(killed, run)
    notes = Path("checkpoints", "step-000002", "notes.txt")
    (run / notes).write_text("mine")
    ended = prepo(*TRAIN, "--output-dir", str(run), "--resume")
    assert ended.code == 0 and "notes.txt: not in the manifest; resuming from step-000001" in ended.err, ended
    assert (run / "checkpoints" / "damaged-step-000002" / "notes.txt").read_text() == "mine"


def test_links_to_checkpoints_and_models_of_others(prepo: Prepo, alone: Path, neighbors: Neighbors) -> None:
    """A checkpoint is linked to another run's, and so is the final model."""
    run, other = neighbors.root, neighbors.elsewhere / "run"
    shutil.copytree(alone, run)
    shutil.copytree(alone, other)
    before = everything(other)
    (run / "checkpoints" / "step-000009").symlink_to(other / "checkpoints" / "step-000003")
    assert prepo(*TRAIN, "--output-dir", str(run), "--overwrite").code == 0
    assert everything(other) == before
    assert os.readlink(run / "checkpoints" / "damaged-step-000009") == str(other / "checkpoints" / "step-000003")
    assert content(run) == content(alone)
    shutil.rmtree(run / "final")
    (run / "final").symlink_to(other / "final")
    for flags in (RESUME, OVERWRITE):
        refused(prepo(*TRAIN, "--output-dir", str(run), *flags), f"{run / 'final'} must be a folder, not a link")
        assert everything(other) == before


def test_a_folder_of_others_is_no_place_for_a_run(prepo: Prepo, neighbors: Neighbors) -> None:
    neighbors.plant(LIKE_OURS["run"])
    before = everything(neighbors.root)
    for flags in MODES.values():
        refused(
            prepo(*TRAIN, "--output-dir", str(neighbors.root), *flags),
            "contains other files: empty it",
            "is not a run folder",
        )
        assert everything(neighbors.root) == before


@pytest.mark.parametrize("flags", [[], OVERWRITE], ids=["", "overwrite"])
@pytest.mark.parametrize("name", ["score-ppl", "score-passrate", "eval"])
def test_an_output_leaves_what_is_not_its_own(
    prepo: Prepo, data: Path, neighbors: Neighbors, name: str, flags: list[str]
) -> None:
    """Begun beside others' files, killed, joined by more, begun again, and again with --overwrite."""
    words, stop = OUTPUTS[name]
    folder = neighbors.root
    argv = [word.format(data=data, folder=folder, run=None) for word in words]
    like_ours = LIKE_OURS["evaluation" if name == "eval" else "scored"]
    like_ours = [other.replace(".jsonl", Path(argv[3]).suffix) for other in like_ours] if name != "eval" else like_ours
    beside = [other for other in like_ours if "partial/" not in other]
    neighbors.plant(beside)
    end(prepo.start(*argv, stop=[stop]))
    neighbors.plant(like_ours)
    ended = prepo(*argv, *flags)
    assert (ended.code, neighbors.lost) == (0, []), ended.err
    neighbors.plant()
    ended = prepo(*argv, "--overwrite")
    assert (ended.code, neighbors.lost) == (0, []), ended.err


@pytest.mark.parametrize(
    "place", ["scored.jsonl", "scored.jsonl.partial/notes.txt", "samples.parquet", "partial/notes.txt"]
)
def test_others_where_an_output_belongs_are_refused(prepo: Prepo, data: Path, neighbors: Neighbors, place: str) -> None:
    name = "score-ppl" if place.startswith("scored") else "eval"
    argv = [word.format(data=data, folder=neighbors.root, run=None) for word in OUTPUTS[name][0]]
    neighbors.plant([place])
    before = everything(neighbors.root)
    for flags in ([], OVERWRITE):
        refused(prepo(*argv, *flags), "not written by prepo", "was not written by this command", "prepo did not write")
        assert everything(neighbors.root) == before


def test_a_study_leaves_what_is_not_its_own(prepo: Prepo, study: list[str], tmp_path: Path) -> None:
    neighbors = Neighbors(Path(study[study.index("--output-dir") + 1]), tmp_path / "elsewhere")
    neighbors.plant(LIKE_OURS["comparison"])
    for argv in (study, ["compare", str(neighbors.root / "random-seed0"), "--output-dir", str(neighbors.root)]):
        ended = prepo(*argv)
        assert (ended.code, neighbors.lost) == (0, []), ended.err
