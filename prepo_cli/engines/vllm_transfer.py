"""How weights reach a vLLM server: what the two ways (files, NCCL) have in common.

Each sets the server's weight version to the given one, and only once the weights are loaded. A restarted server has
version `default`, so the version always tells which weights the server generates with.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

import torch

from prepo_cli.engines.vllm_connections import CallGroup
from prepo_cli.errors import RunError

Weights = Iterable[tuple[str, torch.Tensor]]
LOAD_TIMEOUT_S = 1800.0
"""For loading weights."""
REPLY_TIMEOUT_S = 30.0
"""For calls that neither generate nor load."""


class StaleServer(RunError):
    """The server was restarted and has lost the weights; only a `sync` can bring them back."""


class Transfer(Protocol):
    """One way to hand over weights."""

    def send(self, weights: Weights, version: str) -> None:
        """Have the server load these weights; raises RunError if it cannot."""
        ...

    def restore(self, version: str, group: CallGroup) -> None:
        """Have a restarted server load the newest weights again; raises StaleServer if it cannot be done from here."""
        ...

    def close(self) -> None:
        """Free what is held, on disk or on the GPU."""
        ...


def pieces(weights: Weights, limit: int) -> Iterator[list[tuple[str, torch.Tensor]]]:
    """The weights in consecutive pieces of at most `limit` bytes; a larger tensor is a piece of its own.

    >>> named = [("a", torch.zeros(2)), ("b", torch.zeros(1)), ("c", torch.zeros(9))]
    >>> [[name for name, _ in piece] for piece in pieces(named, 12)]
    [['a', 'b'], ['c']]
    """
    piece: list[tuple[str, torch.Tensor]] = []
    size = 0
    for name, tensor in weights:
        if piece and size + tensor.nbytes > limit:
            yield piece
            piece, size = [], 0
        piece.append((name, tensor.detach()))
        size += tensor.nbytes
    if piece:
        yield piece
