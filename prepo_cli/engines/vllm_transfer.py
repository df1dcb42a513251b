"""Two ways to bring weights to a vLLM server: files in a folder both see, and NCCL between GPUs.

Each makes the server's weight version the given one, and only once the weights are in. A server that is started again
has version `default`; so the version tells what the server generates with.

Files work everywhere. NCCL uses vLLM's own trainer-side helper, in pieces of `PIECE_BYTES` so that the whole model is
never held twice; it needs vLLM in the trainer's environment. The NCCL path follows vLLM 0.32.0 and was not run: the
machine it was written on has no GPU.
"""

from __future__ import annotations

import importlib.util
import shutil
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from prepo_cli.engines.vllm_http import Calls, Refused, Server, Unavailable, Waiting
from prepo_cli.errors import RunError, UsageError

Weights = Iterable[tuple[str, torch.Tensor]]
PREFIX = "weights-"
FILE_BYTES = 4 * 2**30
PIECE_BYTES = 2**30
LOAD_TIMEOUT_S = 1800.0


class DiskTransfer:
    """Weights as safetensors in a folder of their own; the newest stays, for a server that is started again.

    One run for each folder: what earlier ones left there is removed.
    """

    def __init__(self, server: Server, folder: Path, dtype: torch.dtype) -> None:
        self._server, self._dtype = server, dtype
        self._folder = folder.resolve()
        self._newest: Path | None = None

    def send(self, weights: Weights, version: str) -> None:
        """Write the weights and have the server load them."""
        new = self._folder / f"{PREFIX}{uuid4().hex[:12]}"
        try:
            self._write(weights, new)
        except (OSError, SafetensorError) as error:
            raise RunError(
                f"can't write weights to {self._folder}: {' '.join(str(error).split())}; make room or set "
                "engine.vllm_sync_dir, and --resume"
            ) from error
        self._newest = new
        self.load_again(version)
        for old in self._folder.glob(f"{PREFIX}*"):
            if old != new:
                shutil.rmtree(old, ignore_errors=True)

    def load_again(self, version: str, calls: Calls | None = None) -> None:
        """Have the server load the newest weights; patient with a server that is away.

        All calls go over one connection: were the server started again between them, it would get the new version
        without the new weights.
        """
        assert self._newest is not None
        waiting = Waiting(self._server, calls)
        while True:
            try:
                with self._server.session(LOAD_TIMEOUT_S, calls) as call:
                    call("/weight_info")
                    self._reload(call)
                    call("/reset_prefix_cache", {})
                    call("/update_weight_version", {"new_version": version})
                return
            except Unavailable as error:
                waiting.pause(error)

    def close(self) -> None:
        """Remove what was written."""
        for old in self._folder.glob(f"{PREFIX}*"):
            shutil.rmtree(old, ignore_errors=True)

    def _reload(self, call: Any) -> None:
        try:
            call("/collective_rpc", {"method": "reload_weights", "kwargs": {"weights_path": str(self._newest)}})
        except Unavailable as error:
            if error.status == 500:  # the server is there, and its workers failed
                raise RunError(
                    f"the vLLM server at {self._server.url} can't load {self._newest}: {error}; point "
                    "engine.vllm_sync_dir to a folder that both see, start the server again, and --resume"
                ) from error
            raise

    def _write(self, weights: Weights, folder: Path) -> None:
        unfinished = folder.with_name(f"{PREFIX}unfinished-{folder.name.removeprefix(PREFIX)}")
        unfinished.mkdir(parents=True)
        for number, piece in enumerate(pieces(weights, FILE_BYTES)):
            copies = {name: tensor.to("cpu", self._dtype, copy=True).contiguous() for name, tensor in piece}
            save_file(copies, unfinished / f"model-{number:05d}.safetensors", metadata={"format": "pt"})
        unfinished.rename(folder)


class NcclTransfer:
    """Weights broadcast from this process's GPU to those of the server."""

    def __init__(self, server: Server, dtype: torch.dtype) -> None:
        if importlib.util.find_spec("vllm") is None:
            raise UsageError(
                "engine.vllm_weight_sync=nccl needs vLLM here too: pip install 'prepo[vllm]', or set it to disk"
            )
        self._server, self._dtype = server, dtype
        self._source: Any = None
        self._sender: Any = None

    def send(self, weights: Weights, version: str) -> None:
        """Send the weights; a server that was started again is joined anew."""
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
        except (Unavailable, Refused) as error:
            self.forget()
            raise RunError(
                f"weights did not get to the vLLM server at {self._server.url}: {error}; start it again and go on "
                "with --resume"
            ) from error

    def forget(self) -> None:
        """Let go of a server that is gone; the next `send` connects again."""
        if self._sender is not None:
            self._sender.shutdown()
        self._sender = None

    def close(self) -> None:
        """Leave the group."""
        self.forget()

    def _connect(self) -> None:
        from vllm.distributed.weight_transfer import WeightTransferTrainerFactory
        from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo

        workers = int(self._server.patiently("/get_world_size")["world_size"])
        address, port = self._own_address()
        self._source = _source()
        self._sender = WeightTransferTrainerFactory.trainer_init(
            NCCLTrainerInitInfo(master_address=address, master_port=port, world_size=workers + 1, rank=0),
            client=_Client(self._post),
            source=self._source,
        )

    def _own_address(self) -> tuple[str, int]:
        """The address by which the server can reach this machine, and a free port."""
        with socket.create_connection((self._server.host, self._server.port), timeout=10.0) as line:
            address = str(line.getsockname()[0])
        with socket.socket() as free:
            free.bind(("", 0))
            return address, int(free.getsockname()[1])

    def _post(self, path: str, body: dict[str, Any] | None = None) -> None:
        self._server.once(path, body or {}, timeout_s=LOAD_TIMEOUT_S)


class _Client:
    """What vLLM's sender asks of the server. Start and end of an update are ours, around all pieces of it."""

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


def pieces(weights: Weights, limit: int) -> Iterator[list[tuple[str, torch.Tensor]]]:
    """The weights in runs of about `limit` bytes, at least one tensor each."""
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


def _source() -> Any:
    """A weight source for vLLM's sender that gives the piece put into it; a class of vLLM's, so made on demand."""
    from vllm.distributed.weight_transfer import ParamMeta, WeightSource

    class Piece(WeightSource):
        def __init__(self) -> None:
            self.piece: list[tuple[str, torch.Tensor]] = []

        def metadata(self) -> list[Any]:
            return [ParamMeta(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in self.piece]

        def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
            return iter(self.piece)

    return Piece()
