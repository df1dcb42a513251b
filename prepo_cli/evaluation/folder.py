"""The folder of an evaluation: finished chunks while it runs, then samples and summary.

    partial/            finished chunks; deleted when the evaluation is done
    samples.parquet     one row per sample
    config.yaml, summary.json

Every file is written atomically, so that a kill at any moment leaves complete files only. The folder may hold other
files, which its marker does not list and which stay.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from prepo_cli.chunks import Chunks
from prepo_cli.config import to_yaml
from prepo_cli.errors import UsageError
from prepo_cli.evaluation.results import Evaluation
from prepo_cli.evaluation.settings import EvalConfig
from prepo_cli.files import atomic_path, atomic_write, atomic_write_json
from prepo_cli.ownership import Marker, read_marker, refuse_foreign, remove_owned

OURS = ("samples.parquet", "config.yaml", "summary.json", "partial/")
SCHEMA = pa.schema(
    [
        ("prompt_id", pa.string()),
        ("source", pa.string()),
        ("prompt", pa.large_string()),
        ("gold", pa.large_string()),
        ("sample", pa.int32()),
        ("text", pa.large_string()),
        ("answer", pa.large_string()),
        ("reward", pa.float64()),
        ("correct", pa.bool_()),
        ("length", pa.int32()),
        ("truncated", pa.bool_()),
    ]
)
TEXTS = ("prompt", "gold", "text")
"""Columns that take most of the space, and that no result needs."""
REWARD_PREFIX = "reward_"
"""Prefix of the columns that hold one reward function's values."""
COUNTS = b"prepo"


class EvaluationFolder:
    """Files of one evaluation, which its fingerprint identifies."""

    def __init__(self, path: Path, fingerprint: str) -> None:
        self.path, self.fingerprint = path, fingerprint
        self.partial, self.samples = path / "partial", path / "samples.parquet"
        self.config, self.summary = path / "config.yaml", path / "summary.json"
        self._chunks = Chunks(self.partial, fingerprint)

    def open(self, overwrite: bool) -> dict[str, Any] | None:
        """Prepare to start or resume; returns the summary if this evaluation is already done.

        Raises:
            UsageError: the folder holds something else, or can't be written to.
        """
        marker, done, begun = read_marker(self.path), _read(self.summary), self._chunks.owner()
        if marker is not None and marker.kind != "evaluation":
            raise UsageError(f"{self.path} belongs to a prepo {marker.kind}; choose another --output-dir")
        is_done = done is not None and done.get("fingerprint") == self.fingerprint
        if is_done and not overwrite:
            if marker is not None:
                self._chunks.delete()
            return done
        refuse_foreign(self.path, (name.rstrip("/") for name in OURS), "choose another --output-dir")
        try:
            if overwrite and marker is not None:
                self._chunks.delete()
                remove_owned(self.path)
            elif done is not None or begun not in (None, self.fingerprint):
                raise UsageError(
                    f"{self.path} contains another evaluation (different settings, model or data); "
                    "pass --overwrite, or choose another --output-dir"
                )
            self.path.mkdir(parents=True, exist_ok=True)
            Marker("evaluation", OURS).write(self.path)
            self._chunks.open()
        except OSError as error:
            raise UsageError(f"can't write to {self.path} ({error.strerror}); choose another --output-dir") from error
        return None

    def write_part(self, number: int, chunk: Evaluation) -> None:
        """Save a finished chunk."""
        k = chunk.k
        columns = {
            "prompt_id": np.repeat(np.array(chunk.prompt_ids, dtype=object), k),
            "source": np.repeat(np.array(chunk.sources, dtype=object), k),
            "prompt": np.repeat(np.array(chunk.prompts, dtype=object), k),
            "gold": np.repeat(np.array(chunk.golds, dtype=object), k),
            "sample": np.tile(np.arange(k), len(chunk.prompt_ids)),
            "text": [text for group in chunk.completions for text in group],
            "answer": [answer for group in chunk.answers_PK for answer in group],
            "reward": chunk.rewards_PK.ravel(),
            "correct": chunk.correct_PK.ravel(),
            "length": chunk.lengths_PK.ravel(),
            "truncated": chunk.truncated_PK.ravel(),
        }
        counts = {"k": k, "seconds": chunk.seconds, "left_out": chunk.left_out}
        counts |= {"timeouts": chunk.timeouts, "errors": chunk.errors}
        table = pa.table(columns, schema=SCHEMA)
        for name, values_PK in chunk.by_function.items():
            values = pa.array(values_PK.ravel(), pa.float64(), from_pandas=True)  # null where it does not apply
            table = table.append_column(f"{REWARD_PREFIX}{name}", values)
        table = table.replace_schema_metadata({COUNTS: json.dumps(counts).encode()})
        self._chunks.write(number, table)

    def read_part(self, number: int) -> Evaluation | None:
        """A chunk that an earlier run finished, without its texts; None if it is not finished."""
        if number not in self._chunks:
            return None
        names = [name for name in self._chunks.schema(number).names if name not in TEXTS]
        table = self._chunks.read(number, names)
        counts = json.loads(table.schema.metadata[COUNTS])
        k = counts.pop("k")

        def grid(name: str) -> Any:
            return table[name].to_numpy().reshape(-1, k)

        answers = table["answer"].to_pylist()
        return Evaluation(
            prompt_ids=table["prompt_id"].to_pylist()[::k],
            sources=table["source"].to_pylist()[::k],
            correct_PK=grid("correct").astype(np.bool_),
            rewards_PK=grid("reward"),
            by_function={
                name.removeprefix(REWARD_PREFIX): grid(name) for name in names if name.startswith(REWARD_PREFIX)
            },
            answers_PK=[answers[start : start + k] for start in range(0, len(answers), k)],
            lengths_PK=grid("length").astype(np.int64),
            truncated_PK=grid("truncated").astype(np.bool_),
            completions=[],
            prompts=[],
            golds=[],
            **counts,
        )

    def finish(self, config: EvalConfig, parts: int, summary: dict[str, Any]) -> None:
        """Join all samples into one file, then write the summary, which marks the evaluation as done."""
        schema = self._chunks.schema(0).remove_metadata()
        with atomic_path(self.samples) as temporary, pq.ParquetWriter(temporary, schema) as writer:
            for number in range(parts):
                writer.write_table(self._chunks.read(number).replace_schema_metadata())
        atomic_write(self.config, to_yaml(config))
        atomic_write_json(self.summary, summary)
        self._chunks.delete()


def _read(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file; None if there is no such file, {} if it holds anything else."""
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError):
        return {}
    return loaded if isinstance(loaded, dict) else {}
