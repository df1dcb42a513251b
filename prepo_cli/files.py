"""Files that a kill at any moment leaves whole or not there at all."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prepo_cli.errors import RunError


def atomic_write(path: Path, text: str) -> None:
    """Write all of it or nothing."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Objects of a JSONL file up to the first torn line; none without the file."""
    if not path.is_file():
        return []
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return found


def finite(value: Any) -> Any:
    """The value with NaN and infinities as None, which JSON can hold."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    return [finite(item) for item in value] if isinstance(value, list | tuple) else value


def append_line(path: Path, line: Mapping[str, Any]) -> None:
    """Add a line to a JSONL file and flush it to the disk; raises RunError where that fails."""
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(finite(line)) + "\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise RunError(f"{path} can't be written ({error.strerror}); mend that, then go on with --resume") from error
