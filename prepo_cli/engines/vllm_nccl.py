"""Weights for a vLLM server over NCCL, from this process's GPU to those of the server.

Uses vLLM's own trainer-side helper, so vLLM must be installed here too. Weights go in pieces of `PIECE_BYTES`, so that
no second copy of the model is ever held. Written against vLLM 0.32.0 and never run, for lack of GPUs.
"""

from __future__ import annotations

import importlib.util
import socket
from collections.abc import Iterator
from typing import Any

import torch

from prepo_cli.engines.vllm_answers import WorldSize, read_answer
from prepo_cli.engines.vllm_connections import CallGroup, Unavailable
from prepo_cli.engines.vllm_http import Rejected, Server
from prepo_cli.engines.vllm_transfer import LOAD_TIMEOUT_S, StaleServer, Weights, pieces
from prepo_cli.errors import RunError, UsageError, one_line

PIECE_BYTES = 2**30


class NcclTransfer:
    """Weights broadcast in a group of this process and the server's workers."""

    def __init__(self, server: Server, dtype: torch.dtype) -> None:
        if importlib.util.find_spec("vllm") is None:
            raise UsageError(
                "engine.vllm_weight_sync=nccl needs vLLM in the trainer's environment too; run: pip install "
                "'prepo[vllm]', or set it to disk"
            )
        self._server, self._dtype = server, dtype
        self._source: Any = None
        self._sender: Any = None

    def send(self, weights: Weights, version: str) -> None:
        """Send the weights, connecting first if necessary."""
        try:
            if self._sender is None:
                self._connect()
            self._post("/start_weight_update")
            for piece in pieces(weights, PIECE_BYTES):
                self._source.piece = [(name, tensor.to("cuda", self._dtype)) for name, tensor in piece]
                self._sender.send_weights()
            self._source.piece = []
            self._post("/finish_weight_update", {"weight_version": version})
            self._post("/reset_prefix_cache")
        except (Unavailable, Rejected, OSError, RuntimeError) as error:  # NCCL raises RuntimeError
            self.close()
            raise RunError(
                f"sending weights to the vLLM server at {self._server.url} failed: "
                f"{one_line(error)}; restart it, then continue with --resume"
            ) from error

    def restore(self, version: str, group: CallGroup) -> None:
        """Raise StaleServer: no copy of the weights is kept that could be sent again."""
        self.close()
        raise StaleServer(
            f"the vLLM server at {self._server.url} was restarted and has lost the weights; continue with --resume"
        )

    def close(self) -> None:
        """Leave the group; the next `send` connects again."""
        if self._sender is not None:
            self._sender.shutdown()
        self._sender = None

    def _connect(self) -> None:
        from vllm.distributed.weight_transfer import WeightTransferTrainerFactory
        from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo

        workers = read_answer(WorldSize, self._server.retry("/get_world_size"), self._server.url).world_size
        address, port = self._own_address()
        self._source = _source()
        self._sender = WeightTransferTrainerFactory.trainer_init(
            NCCLTrainerInitInfo(master_address=address, master_port=port, world_size=workers + 1, rank=0),
            client=_Client(self._post),
            source=self._source,
        )

    def _own_address(self) -> tuple[str, int]:
        """The address at which the server can reach this machine, and a free port."""
        with socket.create_connection((self._server.host, self._server.port), timeout=10.0) as connection:
            address = str(connection.getsockname()[0])
        with socket.socket() as free:
            free.bind(("", 0))
            return address, int(free.getsockname()[1])

    def _post(self, path: str, body: dict[str, Any] | None = None) -> None:
        self._server.call(path, body or {}, timeout_s=LOAD_TIMEOUT_S)


class _Client:
    """The server as vLLM's sender sees it. `NcclTransfer` itself starts and finishes an update, around all pieces."""

    def __init__(self, post: Any) -> None:
        self._post = post

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        self._post("/init_weight_transfer_engine", {"init_info": init_info})

    def start_weight_update(self) -> None:
        pass

    def update_weights(self, update_info: Any) -> None:
        self._post("/update_weights", {"update_info": update_info})

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        pass


def _source() -> Any:
    """A weight source that yields the current piece to vLLM's sender; its base class needs vLLM, hence defined here."""
    from vllm.distributed.weight_transfer import ParamMeta, WeightSource

    class Piece(WeightSource):
        def __init__(self) -> None:
            self.piece: list[tuple[str, torch.Tensor]] = []

        def metadata(self) -> list[Any]:
            return [ParamMeta(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in self.piece]

        def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
            return iter(self.piece)

    return Piece()
