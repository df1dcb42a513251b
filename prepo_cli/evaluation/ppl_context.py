"""What stored perplexities were computed with: `score-ppl` writes it beside them, and runs that use them compare it.

Column `ppl_context` repeats one compact JSON object in every row, so that it survives JSONL, parquet and CSV as well
as filtering and concatenation; a file that was joined from several scorings then holds several contexts.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from prepo_cli.data.rendering import Renderer
from prepo_cli.evaluation.settings import digest_model
from prepo_cli.policy.loading import model_source
from prepo_cli.sections import ModelConfig

COLUMN = "ppl_context"
SAMPLE_TEXT = "Let $x_1 = 3.14$ and \\frac{12345}{67}; what's\n\n  the naïve sum of 1,000 and 7?\t平方 🙂"
"""Where tokenizers differ: digits, LaTeX, white space, other scripts."""
DIGEST_SIZE = 8


@dataclass(frozen=True)
class PerplexityContext:
    """Model, scope and prompt rendering of perplexities.

    `weights` is a digest of the model's files, None unless the model is in a local folder.
    """

    model: str
    revision: str | None
    weights: str | None
    scope: str
    rendering: str

    @classmethod
    def of(cls, model: ModelConfig, renderer: Renderer, scope: str) -> PerplexityContext:
        """The context of perplexities of this model with prompts rendered this way."""
        return cls(
            model=model.model_name_or_path,
            revision=model.revision,
            weights=_weights_digest(Path(model_source(model.model_name_or_path))),
            scope=scope,
            rendering=rendering_digest(renderer),
        )

    @classmethod
    def from_json(cls, text: Any) -> PerplexityContext | None:
        """Read a cell of the column; None if it holds no context."""
        try:
            values = json.loads(text)
            return cls(**{field.name: values[field.name] for field in fields(cls)})
        except (TypeError, KeyError, json.JSONDecodeError):
            return None

    def to_json(self) -> str:
        """A cell of the column."""
        return json.dumps(asdict(self), separators=(",", ":"))

    def same_model(self, other: PerplexityContext) -> bool:
        """Compare the weights where both are known, otherwise name and revision."""
        if self.weights and other.weights:
            return self.weights == other.weights
        return (self.model, self.revision or "main") == (other.model, other.revision or "main")


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
