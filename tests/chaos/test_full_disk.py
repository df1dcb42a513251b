"""A file system that is really full, at each place where prepo writes: one line, nothing half, and then it goes on.

A tmpfs in a mount namespace of its own, which ends with the test. Just before an operation on a file it is filled up,
but for some bytes; what was written before must be whole, and once there is room the same work ends as if it had
never been stopped.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from prepo_cli import manifest
from prepo_cli.config import read_yaml
from prepo_cli.files import PARTIAL, readable_lines
from prepo_cli.ownership import LOCK, MARKER
from tests.chaos.filling import empty, fill
from tests.chaos.test_kills import content
from tests.forked import ROOT, Ended, Prepo

MEGABYTE = 2**20
NAMESPACES = ["unshare", "--mount"], ["unshare", "--user", "--map-root-user", "--mount"]
"""What may mount: root, or else an ordinary user who is root in a namespace."""
MOUNT = 'mount -t tmpfs -o size=$0,nr_inodes=3000 prepo "$1" && shift && exec "$@"'
SIZE = "160m"
NO_SPACE = "No space left on device"

TRAIN = [
    "train", "--recipe", "everything", "--seed", "3", "--steps", "4", "--json", "--reward", "boxed",
    *[f"--set={setting}" for setting in (
        "training.prompts_per_step=3", "training.num_generations=4", "training.max_completion_length=32",
        "training.save_steps=1", "training.save_total_limit=2", "training.learning_rate=2e-4",
        "evaluation.limit=2", "evaluation.num_samples=2", "evaluation.eval_steps=2",
        "strategies.weighting=tests.training.poison:Steps",
    )],
]  # fmt: skip

SAMPLING = ["--k", "2", "--max-completion-length", "8", "--reward", "boxed"]


@dataclass(frozen=True)
class Site:
    """Where the disk is full: before an operation on `place`, but for `free` bytes, or for all bytes and no file.

    `named` is the end of the path that the error line names.
    """

    place: str
    named: str
    free: int = 0
    files: bool = False

    def __str__(self) -> str:
        room = "no more files" if self.files else f"{self.free:,} bytes free"
        return f"{self.named} at {self.place} ({room})"


def at(sites: Sequence[Site], ending: str) -> tuple[Site, ...]:
    """The sites with the output's ending."""
    return tuple(replace(site, named=site.named.format(ending)) for site in sites)


BEGINNING = (
    Site("/run", "/run", files=True),
    Site("/.prepo.lock", "/run"),
    Site("/.partial-.prepo.json", MARKER),
    Site("/.partial-config.yaml", "/config.yaml"),
    Site("os.mkdir /rollouts", "/rollouts", files=True),
    Site("open /evaluations.jsonl", "/evaluations.jsonl"),
    Site("open /evaluations.jsonl", "/step_000000.parquet", free=4096),
    Site("open /metrics.jsonl", "/metrics.jsonl"),
    Site("open /metrics.jsonl", "/metrics.jsonl", files=True),
    Site("os.mkdir /.partial-step-000001", "/step-000001", free=MEGABYTE),
)
MIDDLE = (
    Site("os.rename /.partial-step-000001", "/step_000001.parquet"),
    Site("step-000002/model/config.json", "/step-000002"),
    Site("step-000002/model/generation_config.json", "/step-000002", free=MEGABYTE),
    Site("step-000002/model/chat_template.jinja", "/step-000002"),
    Site("step-000002/model/tokenizer_config.json", "/step-000002", free=8192),
    Site("step-000002/model/tokenizer_config.json", "/step-000002", free=4 * MEGABYTE),
    Site("step-000002/state.json", "/step-000002"),
    Site("step-000002/strategies.npz", "/step-000002", free=8192),
    Site("step-000002/.partial-prepo-manifest.json", "/step-000002"),
    Site("step-000002/.partial-prepo-manifest.json", "/step-000002", files=True),
    Site("/.prepo.lock", "/run"),
    Site("/.partial-metrics.jsonl", "/metrics.jsonl"),
    Site("/.partial-evaluations.jsonl", "/evaluations.jsonl"),
    Site("/.partial-.prepo.json", MARKER),
    Site("/.partial-config.yaml", "/config.yaml"),
)
END = (
    Site("os.mkdir /skipped", "/skipped", files=True),
    Site("os.mkdir /skipped", "/skipped/step_000002.parquet"),
    Site("os.mkdir /.partial-final", "/final", free=MEGABYTE),
    Site("/.partial-final/config.json", "/final"),
    Site("/.partial-final/generation_config.json", "/final", free=MEGABYTE),
    Site("/.partial-final/.partial-prepo-manifest.json", "/final"),
    Site("os.rename /.partial-final", MARKER),
    Site("/.partial-README.md", "/README.md"),
    Site("/.partial-learning_curve.png", "/learning_curve.png", free=8192),
    Site("/.partial-summary.json", "/summary.json"),
)
"""In the order in which a run comes to them."""
SCORING = (
    Site(".prepo.lock", "/scored{0}"),
    Site("os.mkdir .partial", "/scored{0}.partial", files=True),
    Site("/.partial-.prepo.json", f"/scored{{0}}.partial/{MARKER}"),
    Site("os.rename /.partial-.prepo.json", "/scored{0}.partial/chunk-000000.parquet"),
    Site("/.partial-scored", "/scored{0}"),
)
OUTPUTS = {
    "score-ppl": (
        ["score-ppl", "{data}", "--output", "{folder}/scored.jsonl", "--plot", "{folder}/plot.png", "--overwrite"],
        (*at(SCORING, ".jsonl"), Site("/.partial-plot.png", "/plot.png", free=8192)),
    ),
    "score-ppl to parquet": (["score-ppl", "{data}", "--output", "{folder}/scored.parquet"], at(SCORING, ".parquet")),
    "score-passrate to csv": (
        ["score-passrate", "{data}", "--output", "{folder}/scored.csv", *SAMPLING], at(SCORING, ".csv")
    ),
    "eval": (
        ["eval", "--dataset", "{data}", "--split", "train", "--output-dir", "{folder}/eval", *SAMPLING],
        (
            Site("os.mkdir /eval", "/eval", files=True),
            Site("/.prepo.lock", "/eval"),
            Site("/.partial-.prepo.json", f"/eval/{MARKER}"),
            Site("/partial/.partial-.prepo.json", f"/eval/partial/{MARKER}"),
            Site("os.rename /partial/.partial-.prepo.json", "/eval/partial/chunk-000000.parquet"),
            Site("os.rename /.partial-chunk-000000.parquet", "/eval/samples.parquet"),
            Site("/.partial-config.yaml", "/eval/config.yaml"),
            Site("/.partial-summary.json", "/eval/summary.json"),
        ),
    ),
    "compare": (
        ["compare", "{run}", "--output-dir", "{folder}/comparison"],
        (
            Site("/.partial-.prepo.json", f"/comparison/{MARKER}"),
            Site("/.partial-accuracy_rollouts.png", "/accuracy_rollouts.png", free=8192),
            Site("/.partial-accuracy_rollouts.svg", "/accuracy_rollouts.svg"),
            Site("/.partial-page.html", "/page.html", free=MEGABYTE),
        ),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Disk:
    """A file system, and commands that see it."""

    path: Path
    prepo: Prepo

    def run(self, argv: Sequence[str], site: Site | None = None) -> Ended:
        """Run a command line with room for all that it writes, but at the site."""
        empty(self.path)
        if site is None:
            return self.prepo(*argv)
        where = {"place": site.place, "free": site.free, "files": site.files}
        return self.prepo(*argv, fill={"disk": str(self.path), **where})


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Disk]:
    point = tmp_path_factory.mktemp("disk")
    for namespace in NAMESPACES:
        before = [*namespace, "sh", "-c", MOUNT, SIZE, str(point)]
        tried = subprocess.run([*before, "true"], capture_output=True, text=True, check=False)
        if tried.returncode == 0:
            break
    else:
        pytest.skip(f"not run: no file system can be mounted here ({tried.stderr.strip()})")
    with Prepo([*before, "env", f"HF_DATASETS_CACHE={point / 'cache'}"]) as prepo:
        yield Disk(Path(f"/proc/{prepo.pid}/root{point}"), prepo)


@pytest.fixture(scope="module")
def alone(disk: Disk, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that had room."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    ended = disk.run([*TRAIN, "--output-dir", str(folder)])
    assert ended.code == 0, ended.err
    return folder


def one_line(ended: Ended, site: Site) -> None:
    """The command failed at the site, and said so."""
    assert ended.code in (1, 2), f"{site}: {ended}"
    assert ended.error.startswith("prepo: can't "), f"{site}: {ended}"
    assert f"{site.named} (" in ended.error and NO_SPACE in ended.error, f"{site}: {ended.error}"
    assert ended.err.count("can't ") == 1, f"{site}: {ended.err}"
    assert not any(word in ended.err for word in ("Traceback", "Exception", "Error")), f"{site}: {ended.err}"


def whole(folder: Path) -> None:
    """Nothing is half written: every file can be read to its end, every manifest holds, and no file is temporary."""
    for path in sorted(folder.rglob("*")):
        assert not path.name.startswith((PARTIAL, "reading-")) and not path.name.endswith(LOCK), path
        if path.suffix == ".parquet":
            pq.read_table(path)
        elif path.name in ("metrics.jsonl", "evaluations.jsonl"):
            assert path.read_bytes()[-1:] in (b"", b"\n") and not readable_lines(path)[1], path
        elif path.suffix == ".json":
            json.loads(path.read_bytes())
        elif path.suffix == ".yaml":
            read_yaml(path)
    for saved in (*folder.glob("checkpoints/*"), *folder.glob("final")):
        manifest.verify(saved)


def test_a_run_stopped_at_every_site_ends_as_if_there_had_always_been_room(disk: Disk, alone: Path) -> None:
    folder = disk.path / "run"
    for site in (*BEGINNING, *MIDDLE, *END):
        started = time.perf_counter()
        one_line(disk.run(go_on(folder), site), site)
        whole(folder)
        print(f"{site}: {time.perf_counter() - started:.1f} s")
    assert disk.run(go_on(folder)).code == 0
    whole(folder)
    assert content(folder) == content(alone)
    skipped = Path("skipped", "step_000002.parquet")
    assert (folder / skipped).read_bytes() == (alone / skipped).read_bytes()


def go_on(folder: Path) -> list[str]:
    """The command line that goes on with a run, as its messages say."""
    flags = [] if not (folder / "config.yaml").exists() else ["--overwrite"]
    return [*TRAIN, "--output-dir", str(folder), *(["--resume"] if any(folder.glob("checkpoints/*")) else flags)]


@pytest.mark.parametrize("name", OUTPUTS)
def test_an_output_is_written_whole_or_not(disk: Disk, alone: Path, tmp_path: Path, name: str) -> None:
    data, folder = tmp_path / "data.jsonl", disk.path / "outputs"
    rows = [{"question": f"What is {number} + 1?", "answer": str(number + 1)} for number in range(6)]
    data.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    words, sites = OUTPUTS[name]
    argv = [word.format(data=data, folder=folder, run=alone) for word in words]
    undisturbed: dict[str, Any] = {}
    for site in (None, *sites, None):
        folder.mkdir(exist_ok=True)
        ended = disk.run(argv, site)
        whole(folder)
        if site is not None:
            one_line(ended, site)
            partial = [path for path in folder.rglob("*partial") if not any(path.glob("chunk-*"))]
            assert partial == [], "nothing worth keeping is in there"
            continue
        assert ended.code == 0, ended.err
        assert undisturbed in ({}, outputs(folder))
        undisturbed = outputs(folder)
        shutil.rmtree(folder)


def outputs(folder: Path) -> dict[str, Any]:
    """What a command has written, without times."""
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {name: timed(path) if path.name == "summary.json" else path.read_bytes() for name, path in files.items()}


def timed(summary: Path) -> dict[str, Any]:
    return {key: value for key, value in json.loads(summary.read_text()).items() if "second" not in key}


def test_the_table_of_a_large_file_is_kept_whole_or_not(disk: Disk, tmp_path: Path) -> None:
    """As Arrow, in the cache folder of `datasets`; 8 MB of 66 fit."""
    data, folder, cache = tmp_path / "data.jsonl", disk.path / "outputs", disk.path / "cache" / "prepo"
    row = {"question": "What is 1 + 1?", "answer": "2", "note": "x" * MEGABYTE}
    data.write_text(f"{json.dumps(row)}\n" * 66)
    folder.mkdir()
    argv = ["score-ppl", str(data), "--output", str(folder / "scored.jsonl"), "--limit", "2"]
    for site in (
        Site("os.mkdir /prepo", "/prepo", files=True),
        Site("os.mkdir /reading-", "/data.jsonl", files=True),
        Site("os.mkdir /reading-", "/data.jsonl", free=8 * MEGABYTE),
    ):
        ended = disk.run(argv, site)
        assert ended.code == 2 and NO_SPACE in ended.error, ended
        assert str(data) in ended.error and "set HF_DATASETS_CACHE to use another folder" in ended.error, ended
        assert ended.err.count("can't ") == 1, ended.err
        whole(disk.path / "cache")
        assert list(cache.glob("*")) == []
    cache.mkdir(exist_ok=True)
    (cache / "notes.arrow").write_text("mine")
    assert disk.run(argv).code == 0
    assert len(list(cache.glob("*"))) == 2 and (cache / "notes.arrow").read_text() == "mine"
    before = outputs(folder)
    assert disk.run([*argv, "--overwrite"], Site("os.mkdir /prepo", "")).code == 0, "nothing is written again"
    assert outputs(folder) == before


def test_a_run_of_a_study_says_why_it_failed_even_if_its_log_is_empty(disk: Disk) -> None:
    """Its configuration takes the last page, so its own messages are lost."""
    study = disk.path / "study"
    argv = ["compare", "--recipes", "random", "--steps", "1", "--output-dir", str(study)]
    for free in (0, 4096):
        ended = disk.run(argv, Site("/.partial-random-seed0.yaml", "", free=free))
        assert ended.code == 1 and ended.error.startswith("prepo: ") and NO_SPACE in ended.error, ended
        assert str(study) in ended.error, ended
        whole(study)


def test_messages_and_results_that_find_no_room(disk: Disk, alone: Path, tmp_path: Path) -> None:
    log = disk.path / "log"
    empty(disk.path)
    fill(disk.path)
    ended = disk.prepo(*TRAIN, "--output-dir", str(tmp_path / "run"), err=log)
    assert (ended.code, ended.err) == (0, "")
    assert content(tmp_path / "run") == content(alone)
    with log.open("ab") as full:  # Python's own end, too, has lines that it can't write
        command = [sys.executable, "-m", "prepo_cli", "train", "--steps", "0"]
        assert subprocess.run(command, cwd=ROOT, stderr=full, check=False).returncode == 2
    for argv in (["strategies"], ["strategies", "--json"]):
        ended = disk.prepo(*argv, out=log)
        assert (ended.code, ended.out) == (1, "")
        assert ended.err.startswith(f"prepo: can't write the results ({NO_SPACE})") and ended.err.count("\n") == 1
