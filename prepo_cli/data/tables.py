"""Read a dataset from a file, a folder or the Hugging Face Hub into a memory-mapped `datasets.Dataset`."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from prepo_cli.data.embedded import embedded_table
from prepo_cli.errors import UsageError, one_line
from prepo_cli.sections import is_embedded

FORMATS = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv"}


def load_table(
    name: str, split: str, skip_bad_rows: bool = False, dataset_config: str | None = None
) -> tuple[Any, int]:
    """Load a dataset; returns it with the number of unreadable lines that were skipped.

    Raises:
        UsageError: the dataset is missing, empty or unreadable.
    """
    import datasets

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # errors are reported below, in one line
    path = Path(name)
    if is_embedded(name):
        return embedded_table(name, split), 0
    if not path.exists() and (path.suffix in FORMATS or name.startswith((".", "/", "~")) or name.count("/") > 1):
        raise UsageError(f"no such dataset file: {name}")
    if not path.is_file():
        return load_folder_or_hub(name, split, dataset_config), 0
    if path.suffix not in FORMATS:
        raise UsageError(f"{name}: unsupported file format '{path.suffix}'; use one of {', '.join(FORMATS)}")
    if path.stat().st_size == 0:
        raise UsageError(f"{name} is empty")
    try:
        return datasets.load_dataset(FORMATS[path.suffix], data_files=str(path), split="train"), 0
    except (datasets.exceptions.DatasetGenerationError, ValueError, OSError) as error:
        if path.suffix != ".jsonl":
            raise UsageError(f"{name} can't be read: {one_line(error.__cause__ or error)}") from error
        with TemporaryDirectory(prefix="prepo-") as folder:
            readable = Path(folder) / path.name
            broken, first = _copy_readable_lines(path, readable)
            if first is None:
                raise UsageError(f"{name} can't be read: {one_line(error.__cause__ or error)}") from error
            if not skip_bad_rows:
                raise UsageError(f"{name}, {first}; fix it, or skip bad rows with --skip-bad-rows") from error
            return datasets.load_dataset("json", data_files=str(readable), split="train"), broken


def load_folder_or_hub(name: str, split: str, config: str | None = None) -> Any:
    """Load a local folder or a dataset on the Hub; raises UsageError with the reason if that fails."""
    import datasets

    if Path(name).is_dir() and (Path(name) / "state.json").is_file():
        return datasets.load_from_disk(name)
    try:
        return datasets.load_dataset(name, config, split=split)
    except Exception as error:  # the Hub client and the dataset builders raise a dozen unrelated types
        raise UsageError(
            f"dataset '{name}' (split {split}) can't be loaded: {one_line(error.__cause__ or error)}"
        ) from error


def _copy_readable_lines(path: Path, to: Path) -> tuple[int, str | None]:
    """Copy the lines that hold a JSON object; returns the number of other lines and a description of the first."""
    broken, first = 0, None
    with path.open(encoding="utf-8", errors="replace") as lines, to.open("w", encoding="utf-8") as readable:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                fault = None if isinstance(json.loads(line), dict) else "not a JSON object"
            except json.JSONDecodeError as error:
                fault = f"{error.msg} at column {error.colno}"
            if fault is None:
                readable.write(line if line.endswith("\n") else line + "\n")
            else:
                broken += 1
                first = first or f"line {number}: {fault}"
    return broken, first
