"""A dataset as one table: a file, a local folder, the embedded task or the Hugging Face Hub.

Local files are read by reading.py, those of a folder that belong to the split too. A folder without files of its
formats, one whose README declares configurations, and the Hub are left to `datasets`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import accumulate
from os.path import exists, isdir, lexists  # False for names that no file can have, where pathlib raises
from pathlib import Path
from typing import Any

import numpy as np

from prepo_cli.data.embedded import embedded_table
from prepo_cli.data.reading import FORMATS, Reading, read_file
from prepo_cli.data.spill import joined
from prepo_cli.errors import UsageError, one_line
from prepo_cli.sections import is_embedded

SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
"""Words in the paths of a folder's files that mean a split."""


@dataclass(frozen=True)
class Table:
    """A `datasets.Dataset`, and the files that its rows come from, if they are known."""

    rows: Any
    name: str
    readings: Sequence[Reading] = ()

    @property
    def bad(self) -> int:
        """Rows that could not be read and were skipped."""
        return sum(reading.bad for reading in self.readings)

    def place(self, index: int) -> str:
        """What messages call a row: its file, and its number there."""
        ends = list(accumulate(len(reading.table) for reading in self.readings))
        if not ends:
            return f"{self.name}, row {index + 1}"
        number = int(np.searchsorted(ends, index, side="right"))
        return self.readings[number].place(index - (ends[number - 1] if number else 0))


def load_table(
    name: str,
    split: str,
    skip_bad_rows: bool = False,
    dataset_config: str | None = None,
    text: Collection[str] = (),
) -> Table:
    """Load a dataset; the numbers in the columns `text` of local files are kept as text.

    Raises:
        UsageError: the dataset is missing, empty or unreadable, or a local file has a bad row.
    """
    import datasets

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # errors are reported below, in one line
    if is_embedded(name):
        return Table(embedded_table(name, split), name)
    path = Path(name)
    if isdir(name):
        plain = dataset_config is None and re.fullmatch(r"\w+", split)
        files = _files_of(path, split) if plain else []
        if files:
            return _joined(name, [read_file(file, skip_bad_rows, text) for file in files])
    elif lexists(name) or path.suffix in FORMATS or _is_local(name):
        if not exists(name):
            where = "" if path.is_absolute() else f" in {Path.cwd()}"
            raise UsageError(f"no such dataset file: {name}{where}; check the path")
        return _joined(name, [read_file(path, skip_bad_rows, text)])
    return Table(load_folder_or_hub(name, split, dataset_config), name)


def load_folder_or_hub(name: str, split: str, config: str | None = None) -> Any:
    """Let `datasets` load a folder or a dataset on the Hub; raises UsageError with the reason if that fails."""
    import datasets

    path = Path(name)
    if isdir(name) and (path / "state.json").is_file():
        return datasets.load_from_disk(name)
    if isdir(name) and re.search(r"[*?\[\]]|::|://", str(path.resolve())):
        raise UsageError(f"{name}: `datasets` reads this folder's path as a pattern; rename it without * ? [ ] ::")
    try:
        return datasets.load_dataset(name, config, split=split)
    except Exception as error:  # the Hub client and the dataset builders raise a dozen unrelated types
        raise UsageError(
            f"dataset '{name}' (split {split}) can't be loaded: {one_line(error.__cause__ or error)}"
        ) from error


def _is_local(name: str) -> bool:
    return name.startswith((".", "/", "~")) or name.count("/") > 1


def _joined(name: str, readings: Sequence[Reading]) -> Table:
    """One table of all files.

    Raises:
        UsageError: a column has a type that `datasets` can't hold.
    """
    import datasets

    table = joined([reading.table for reading in readings])
    try:
        # Without a given fingerprint, all rows would be hashed.
        return Table(datasets.Dataset(table, fingerprint="rows"), name, readings)
    except (ValueError, TypeError, NotImplementedError) as error:  # as `datasets` refuses types of different kinds
        raise UsageError(f"{name} can't be read: {one_line(error)}") from error


def _files_of(folder: Path, split: str) -> list[Path]:
    """The files of a split in a folder; none if `datasets` has to find them.

    Where no name tells a split, those of the most frequent format are the training set.

    Raises:
        UsageError: the folder has other splits.
    """
    card = folder / "README.md"
    if (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file():
        return []
    if card.is_file() and "configs:" in card.read_text(encoding="utf-8", errors="replace"):
        return []
    files = sorted(path for path in folder.rglob("*") if _is_data(path.relative_to(folder)) and path.is_file())
    known = {path: _split_of(path.relative_to(folder), split) for path in files}
    if files and not any(known.values()):
        kinds = Counter(path.suffix for path in files)
        known = {path: "train" for path in files if path.suffix == kinds.most_common(1)[0][0]}
    found = [path for path in files if known.get(path) == split]
    if files and not found:
        has = ", ".join(sorted({name for name in known.values() if name}))
        raise UsageError(f"{folder} has no split '{split}'; it has {has}")
    return found


def _is_data(path: Path) -> bool:
    hidden = any(part.startswith((".", "_")) for part in path.parts)
    return path.suffix in FORMATS and not hidden and not path.name.startswith("dataset_info")


def _split_of(path: Path, wanted: str) -> str | None:
    """The split that a file's name or else its folder names.

    >>> _split_of(Path("data/test-00000-of-00001.parquet"), "train")
    'test'
    """
    for part in reversed(path.parts):
        for name, words in {**SPLITS, wanted: SPLITS.get(wanted, (wanted,))}.items():
            if any(re.search(rf"(?<![a-z]){re.escape(word)}(?![a-z])", part, re.IGNORECASE) for word in words):
                return name
    return None
