"""What a vLLM server answers, as far as it is read; anything else is refused in one line."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, Field, FiniteFloat, NonNegativeInt, ValidationError

from prepo_cli.engines.vllm_http import Rejected
from prepo_cli.text import brief
from strategies.errors import fault


class Reply(BaseModel):
    """An answer to a call for `path`; what it holds besides is left alone."""

    path: ClassVar[str]


class Version(Reply):
    """The version of vLLM."""

    path = "/version"

    version: str


class ServedModel(BaseModel):
    """A model by the name that the server gives it; `root` is where it was loaded from."""

    id: str
    root: str | None = None
    max_model_len: int


class Models(Reply):
    """The models that are served."""

    path = "/v1/models"

    data: list[ServedModel] = Field(min_length=1)


class WeightInfo(Reply):
    """Which weights the server has."""

    path = "/weight_info"

    weight_version: str


class WorldSize(Reply):
    """How many workers the server has."""

    path = "/get_world_size"

    world_size: int = Field(ge=1)


class ModelSettings(BaseModel):
    """How the server computes."""

    logprobs_mode: str
    dtype: Literal["torch.float32", "torch.bfloat16", "torch.float16", "float32", "bfloat16", "float16"]


class TransferSettings(BaseModel):
    """How the server takes new weights, besides from files."""

    backend: str | None = None


class ServerSettings(BaseModel):
    """vLLM's configuration."""

    model: ModelSettings = Field(alias="model_config")
    transfer: TransferSettings | None = Field(None, alias="weight_transfer_config")


class ServerInfo(Reply):
    """How the server was set up."""

    path = "/server_info"

    settings: ServerSettings = Field(alias="vllm_config")


class TokenLogprobs(BaseModel):
    """Log-probs of a completion's tokens."""

    token_logprobs: list[FiniteFloat]


class TokenLogprob(BaseModel):
    """Log-prob of a prompt's token."""

    logprob: FiniteFloat


class Choice(BaseModel):
    """One completion."""

    token_ids: list[NonNegativeInt]
    logprobs: TokenLogprobs | None = None
    finish_reason: str | None = None
    prompt_logprobs: list[dict[str, TokenLogprob] | None] | None = None


class Choices(Reply):
    """Completions of one prompt."""

    path = "/v1/completions"

    choices: list[Choice]


A = TypeVar("A", bound=Reply)


def read_answer(kind: type[A], answer: Any, url: str) -> A:
    """An answer of the server at `url`.

    >>> read_answer(Version, {"version": "0.32.0", "more": 1}, "http://node1:8000").version
    '0.32.0'

    Raises:
        Rejected: it is not of that kind.
    """
    try:
        return kind.model_validate(answer)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the answer"
        found = f"{place} is {brief(str(first['input']), 40)} ({fault(first)})"
        raise Rejected(
            f"unexpected response of the vLLM server at {url} to {kind.path}: {found}; check "
            "engine.vllm_server_base_url and the server's version"
        ) from error
