"""What stored scores were computed with: written beside them, and compared by the runs that use them with their own.

A context is one compact JSON object that its column repeats in every row, so that it survives JSONL, parquet and CSV as
well as filtering and concatenation; a file that was joined from several scorings then holds several contexts.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Self

from prepo_cli.data.rendering import Renderer
from prepo_cli.evaluation.output import PASS_CONTEXT, PPL_CONTEXT
from prepo_cli.evaluation.settings import digest_model
from prepo_cli.policy.loading import model_source
from prepo_cli.sections import ModelConfig

SAMPLE_TEXT = "Let $x_1 = 3.14$ and \\frac{12345}{67}; what's\n\n  the naïve sum of 1,000 and 7?\t平方 🙂"
"""Where tokenizers differ: digits, LaTeX, white space, other scripts."""
DIGEST_SIZE = 8


@dataclass(frozen=True)
class ScoreContext:
    """Model and prompt rendering of scores.

    `weights` is a digest of the model's files, None unless the model is in a local folder. Subclasses name the column
    that holds the context, the scores, what is recorded of them, and the command that computes them.
    """

    column: ClassVar[str]
    scores: ClassVar[str]
    recorded: ClassVar[str]
    command: ClassVar[str]

    model: str
    revision: str | None
    weights: str | None
    rendering: str

    @classmethod
    def of(cls, model: ModelConfig, renderer: Renderer, **settings: Any) -> Self:
        """The context of scores of this model with prompts rendered this way; `settings` are the subclass's fields."""
        return cls(
            model=model.model_name_or_path,
            revision=model.revision,
            weights=_weights_digest(Path(model_source(model.model_name_or_path))),
            rendering=rendering_digest(renderer),
            **settings,
        )

    @classmethod
    def from_json(cls, text: Any) -> Self | None:
        """Read a cell of the column; None if it holds no context."""
        try:
            values = json.loads(text)
            return cls(**{field.name: values[field.name] for field in fields(cls)})
        except (TypeError, KeyError, json.JSONDecodeError):
            return None

    def to_json(self) -> str:
        """A cell of the column."""
        return json.dumps(asdict(self), separators=(",", ":"))

    def same_model(self, other: ScoreContext) -> bool:
        """Compare the weights where both are known, otherwise name and revision."""
        if self.weights and other.weights:
            return self.weights == other.weights
        return (self.model, self.revision or "main") == (other.model, other.revision or "main")


@dataclass(frozen=True)
class PerplexityContext(ScoreContext):
    """What the perplexities of `prepo score-ppl` were computed with."""

    column: ClassVar[str] = PPL_CONTEXT
    scores: ClassVar[str] = "perplexities"
    recorded: ClassVar[str] = "model, scope and prompt rendering"
    command: ClassVar[str] = "prepo score-ppl"

    scope: str


@dataclass(frozen=True)
class PassRateContext(ScoreContext):
    """What the pass rates of `prepo score-passrate` were computed with; `verdict` is the function that judged."""

    column: ClassVar[str] = PASS_CONTEXT
    scores: ClassVar[str] = "pass rates"
    recorded: ClassVar[str] = "model, prompt rendering and verdict"
    command: ClassVar[str] = "prepo score-passrate"

    temperature: float
    top_p: float
    max_completion_length: int
    verdict: str


def rendering_digest(renderer: Renderer) -> str:
    """Digest of all that turns a question into token ids: template, its arguments, system prompt, tokenizer.

    The tokenizer is represented by its ids for a sample text and for the template with its special tokens: its own
    files change with the library's version, and a rendered prompt may contain today's date.
    """
    tokenizer = renderer.tokenizer
    template = json.dumps(tokenizer.chat_template, sort_keys=True)
    parts = [
        template,
        renderer.system_prompt,
        renderer.template_kwargs,
        tokenizer.bos_token,
        tokenizer.eos_token,
        tokenizer(SAMPLE_TEXT)["input_ids"],
        tokenizer(template)["input_ids"],
    ]
    content = json.dumps(parts, sort_keys=True, default=str).encode()
    return hashlib.blake2b(content, digest_size=DIGEST_SIZE).hexdigest()


def _weights_digest(folder: Path) -> str | None:
    if not folder.is_dir():
        return None
    digest = hashlib.blake2b(digest_size=DIGEST_SIZE)
    digest_model(digest, folder)
    return digest.hexdigest()
