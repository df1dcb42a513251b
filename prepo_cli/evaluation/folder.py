"""The folder of an evaluation: finished chunks while it runs, samples and summary when it is done.

    partial/            fingerprint.json and part-000000.parquet, ...; gone when all is done
    samples.parquet     a row for each sample
    config.yaml, summary.json

Every file is written aside and moved into place, so that a kill at any moment leaves whole files only.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from prepo_cli.config import write_yaml
from prepo_cli.errors import UsageError
from prepo_cli.evaluation.results import Evaluation
from prepo_cli.evaluation.settings import EvalConfig

SCHEMA = pa.schema(
    [
        ("prompt_id", pa.string()),
        ("source", pa.string()),
        ("sample", pa.int32()),
        ("text", pa.large_string()),
        ("answer", pa.large_string()),
        ("reward", pa.float64()),
        ("correct", pa.bool_()),
        ("length", pa.int32()),
        ("truncated", pa.bool_()),
    ]
)
REWARD_PREFIX = "reward_"
"""Of the columns that hold one reward function's values."""
COUNTS = b"prepo"


class EvaluationFolder:
    """Keeps the chunks of one evaluation, which its fingerprint names."""

    def __init__(self, path: Path, fingerprint: str) -> None:
        self.path, self.fingerprint = path, fingerprint
        self.partial, self.samples = path / "partial", path / "samples.parquet"
        self.config, self.summary = path / "config.yaml", path / "summary.json"

    def open(self, overwrite: bool) -> dict[str, Any] | None:
        """Get ready to write or to go on; the summary if this evaluation is done already.

        Raises:
            UsageError: the folder holds something else, or can't be written to.
        """
        done, begun = _read(self.summary), _read(self.partial / "fingerprint.json")
        self._refuse_strangers(done, begun)
        try:
            if overwrite:
                self._clear()
            elif done is not None and done["fingerprint"] == self.fingerprint:
                shutil.rmtree(self.partial, ignore_errors=True)
                return done
            elif any(found is not None and found["fingerprint"] != self.fingerprint for found in (done, begun)):
                raise UsageError(
                    f"{self.path} holds another evaluation (other settings, model or data); "
                    "give --overwrite or another --output-dir"
                )
            self.partial.mkdir(parents=True, exist_ok=True)
            _write_json(self.partial / "fingerprint.json", {"fingerprint": self.fingerprint})
        except OSError as error:
            raise UsageError(f"can't write to {self.path}: {error.strerror}; give another --output-dir") from error
        return None

    def write_part(self, number: int, chunk: Evaluation) -> None:
        """Keep a finished chunk."""
        k = chunk.k
        columns = {
            "prompt_id": np.repeat(np.array(chunk.prompt_ids, dtype=object), k),
            "source": np.repeat(np.array(chunk.sources, dtype=object), k),
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
        aside = self._part(number).with_suffix(".tmp")
        pq.write_table(table, aside)
        os.replace(aside, self._part(number))

    def read_part(self, number: int) -> Evaluation | None:
        """A chunk that an earlier run finished, without its texts; None if there is none."""
        if not self._part(number).exists():
            return None
        names = [name for name in pq.read_schema(self._part(number)).names if name != "text"]
        table = pq.read_table(self._part(number), columns=names)
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
            **counts,
        )

    def finish(self, config: EvalConfig, parts: int, summary: dict[str, Any]) -> None:
        """Put all samples into one file, then write the summary, which says that the evaluation is done."""
        aside = self.samples.with_suffix(".tmp")
        schema = pq.read_schema(self._part(0)).remove_metadata()
        with pq.ParquetWriter(aside, schema) as writer:
            for number in range(parts):
                writer.write_table(pq.read_table(self._part(number)).replace_schema_metadata())
        os.replace(aside, self.samples)
        write_yaml(self.config, config)
        _write_json(self.summary, summary)
        shutil.rmtree(self.partial)

    def _part(self, number: int) -> Path:
        return self.partial / f"part-{number:06d}.parquet"

    def _refuse_strangers(self, done: dict[str, Any] | None, begun: dict[str, Any] | None) -> None:
        """Files of our names that no evaluation wrote, such as a training run's, are left alone whatever is asked."""
        for found in (done, begun):
            if found is not None and "fingerprint" not in found:
                raise UsageError(f"{self.path} holds results of something else; give another --output-dir")
        if done is None and begun is None:
            for path in (self.samples, self.config):
                if path.exists():
                    raise UsageError(f"{path} is not of an evaluation; give another --output-dir")

    def _clear(self) -> None:
        shutil.rmtree(self.partial, ignore_errors=True)
        for path in (self.summary, self.samples, self.config):
            path.unlink(missing_ok=True)


def _read(path: Path) -> dict[str, Any] | None:
    """A JSON object; None if there is no such file, an empty object if it is something else."""
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError):
        return {}
    return loaded if isinstance(loaded, dict) else {}


def _write_json(path: Path, content: dict[str, Any]) -> None:
    aside = path.with_suffix(".tmp")
    aside.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    os.replace(aside, path)
