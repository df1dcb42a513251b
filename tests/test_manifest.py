"""Every change of a folder is found by its manifest, and every change of the manifest itself."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from threading import Event, Thread

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prepo_cli import manifest
from prepo_cli.manifest import NAME, Damaged, listed, verify, write_manifest

GOLDEN = """{
 "files": {
  "a.txt": {
   "size": 3,
   "sha256": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
  },
  "sub/b.bin": {
   "size": 0,
   "sha256": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
  }
 },
 "format": 1,
 "sha256": "%s"
}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "made"
    (made / "sub").mkdir(parents=True)
    (made / "a.txt").write_text("abc")
    (made / "sub" / "b.bin").write_bytes(b"")
    write_manifest(made)
    return made


def test_the_manifest_of_a_small_folder(folder: Path) -> None:
    """The digests of "abc" and of nothing are those of FIPS 180-4's examples."""
    rest = " ".join((GOLDEN % "x").split()).replace("{ ", "{").replace(" }", "}").replace(', "sha256": "x"', "")
    assert (folder / NAME).read_text() == GOLDEN % sha256(rest.encode()).hexdigest()
    assert listed(folder) == ["a.txt", "sub/b.bin", NAME]
    verify(folder)
    before = (folder / NAME).read_bytes()
    write_manifest(folder)
    assert (folder / NAME).read_bytes() == before


def test_every_byte_of_the_manifest_counts(folder: Path) -> None:
    path = folder / NAME
    text = path.read_bytes()
    for place in range(len(text)):
        for changed in (text[place] ^ 1, text[place] ^ 0x20, ord(" ")):
            if changed != text[place]:
                path.write_bytes(text[:place] + bytes([changed]) + text[place + 1 :])
                with pytest.raises(Damaged, match=f"{NAME}: damaged"):
                    verify(folder)
        path.write_bytes(text[:place])
        with pytest.raises(Damaged, match=f"{NAME}: damaged"):
            verify(folder)
        path.write_bytes(text[:place] + b" " + text[place:])
        with pytest.raises(Damaged, match=f"{NAME}: damaged"):
            verify(folder)
    assert listed(folder) == []
    path.write_bytes(text)
    verify(folder)


@settings(max_examples=40, deadline=None)
@given(content=st.binary(min_size=1, max_size=100), flip=st.integers(0, 10**6), block=st.integers(1, 120))
def test_one_flipped_bit_is_found_whatever_the_block(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, flip: int, block: int
) -> None:
    folder = tmp_path_factory.mktemp("flip")
    (folder / "x").write_bytes(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(manifest, "BLOCK_BYTES", block)
        write_manifest(folder)
        assert sha256(content).hexdigest() in (folder / NAME).read_text()
        verify(folder)
        place, bit = divmod(flip % (8 * len(content)), 8)
        (folder / "x").write_bytes(content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :])
        with pytest.raises(Damaged, match="x: content differs"):
            verify(folder)


def test_what_is_wrong_is_named(folder: Path) -> None:
    (folder / "a.txt").write_text("abcd")
    with pytest.raises(Damaged, match=r"^a.txt: 4 bytes instead of 3$") as raised:
        verify(folder)
    assert (raised.value.folder, raised.value.file) == (folder, "a.txt")
    (folder / "a.txt").unlink()
    with pytest.raises(Damaged, match=r"^a.txt: missing$"):
        verify(folder)
    (folder / "a.txt").mkdir()
    with pytest.raises(Damaged, match=r"^a.txt: missing$"):
        verify(folder)
    (folder / "a.txt").rmdir()
    (folder / "a.txt").write_text("abc")
    (folder / "sub" / "c").touch()
    with pytest.raises(Damaged, match=r"^sub/c: not in the manifest$"):
        verify(folder)
    (folder / "sub" / "c").unlink()
    verify(folder)
    (folder / NAME).unlink()
    with pytest.raises(Damaged, match=f"^{NAME}: missing$"):
        verify(folder)


def test_a_part_may_have_other_files_beside_it(folder: Path) -> None:
    (folder / "README.md").touch()
    (folder / "sub" / "notes").touch()
    verify(folder, part=folder)
    (folder / "a.txt").write_text("abd")
    verify(folder, part=folder / "sub")
    with pytest.raises(Damaged, match=r"^a.txt: content differs"):
        verify(folder, part=folder)
    (folder / "sub" / "b.bin").unlink()
    with pytest.raises(Damaged, match=r"^sub/b.bin: missing"):
        verify(folder, part=folder / "sub")


def test_slow_hashing_shows_its_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe that gives nothing before the progress is shown."""
    shown, total, content = Event(), [0], random.Random(0).randbytes(3_000_000)
    (tmp_path / "large").write_bytes(bytes(2_000_000))
    os.mkfifo(tmp_path / "slow")

    @contextmanager
    def progress(description: str, size: int, unit: str) -> Iterator[object]:
        assert (description, size, unit) == (f"verify {tmp_path.name}", 2, "MB")
        shown.set()
        yield lambda more: total.__setitem__(0, total[0] + more)

    def feed() -> None:
        with (tmp_path / "slow").open("wb") as pipe:
            assert shown.wait(30)
            pipe.write(content)

    monkeypatch.setattr(manifest, "progress", progress)
    monkeypatch.setattr(manifest, "QUIET_SECONDS", 0.01)
    monkeypatch.setattr(manifest, "cores", lambda: 2)
    feeder = Thread(target=feed)
    feeder.start()
    write_manifest(tmp_path)
    feeder.join()
    assert sha256(content).hexdigest() in (tmp_path / NAME).read_text()
    assert total == [5]
