"""One wrong bit in the newest checkpoint of a real run: it is found, named, and the older checkpoint taken instead."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest

from prepo_cli import manifest
from prepo_cli.manifest import Damaged
from prepo_cli.training import checkpoint
from tests.chaos.test_kills import start

FLIPS = 200


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("flips") / "run"
    process = start(folder, None, False, "--steps", "3")
    assert process.wait() == 0, (folder.parent / "log").read_text()
    return folder / "checkpoints"


def flipped(content: bytes, bit: int) -> bytes:
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def test_every_byte_of_the_manifest(checkpoints: Path) -> None:
    newest = checkpoint.newest(checkpoints)
    path = newest / manifest.NAME
    content = path.read_bytes()
    for byte in range(len(content)):
        path.write_bytes(flipped(content, 8 * byte + byte % 8))
        with pytest.raises(Damaged):
            manifest.verify(newest)
    path.write_bytes(content)
    manifest.verify(newest)


def test_random_bits_of_all_files(checkpoints: Path, capsys: pytest.CaptureFixture[str]) -> None:
    *_, older, newest = checkpoint.existing(checkpoints)
    files = sorted(path for path in newest.rglob("*") if path.is_file())
    rng, found = random.Random(7), Counter[str]()
    for path in [*files, *rng.choices(files, [path.stat().st_size for path in files], k=FLIPS - len(files))]:
        content = path.read_bytes()
        path.write_bytes(flipped(content, rng.randrange(8 * len(content))))
        assert checkpoint.newest(checkpoints) == older
        name = str(path.relative_to(newest))
        assert f"checkpoint {newest.name} is damaged: {name}: " in capsys.readouterr().err
        newest.with_name(f"damaged-{newest.name}").rename(newest)
        path.write_bytes(content)
        found[name] += 1
    assert checkpoint.newest(checkpoints) == newest
    assert found.total() == FLIPS and len(found) == len(files)
