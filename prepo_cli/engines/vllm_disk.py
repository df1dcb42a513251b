"""Weights for a vLLM server as safetensors files, in a folder that both machines see."""

from __future__ import annotations

import re
import shutil
from contextlib import ExitStack
from pathlib import Path
from uuid import uuid4

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from prepo_cli.engines.vllm_connections import CallGroup, Unavailable
from prepo_cli.engines.vllm_http import Backoff, Server, Session
from prepo_cli.engines.vllm_transfer import LOAD_TIMEOUT_S, REPLY_TIMEOUT_S, Weights, pieces
from prepo_cli.errors import RunError, one_line
from prepo_cli.lock import locked
from prepo_cli.ownership import LOCK

PREFIX = "weights-"
WRITTEN = re.compile(rf"{PREFIX}(unfinished-)?[0-9a-f]{{12}}")
FILE_BYTES = 4 * 2**30


class DiskTransfer:
    """Weights as files in a folder. The newest are kept in case the server restarts.

    Each run needs a folder to itself, and locks it: weights that earlier runs left there are deleted.
    """

    def __init__(self, server: Server, folder: Path, dtype: torch.dtype) -> None:
        self._server, self._dtype = server, dtype
        self._folder = folder.resolve()
        self._newest: Path | None = None
        self._claim = ExitStack()

    def send(self, weights: Weights, version: str) -> None:
        """Write the weights and have the server load them; raises UsageError if another process uses the folder."""
        new = self._folder / f"{PREFIX}{uuid4().hex[:12]}"
        try:
            if self._newest is None:
                self._folder.mkdir(parents=True, exist_ok=True)
                self._claim.close()
                self._claim.enter_context(locked(self._folder / LOCK, self._folder))
            self._write(weights, new)
        except (OSError, SafetensorError) as error:
            for old in self._written():
                if old != self._newest:
                    shutil.rmtree(old, ignore_errors=True)
            raise RunError(
                f"can't write weights to {self._folder} ({one_line(error)}); free some space or set "
                "engine.vllm_sync_dir, then continue with --resume"
            ) from error
        self._newest = new
        self.restore(version)
        for old in self._written():
            if old != new:
                shutil.rmtree(old, ignore_errors=True)

    def restore(self, version: str, group: CallGroup | None = None) -> None:
        """Have the server load the newest weights, retrying while it is down.

        All calls go over one connection: if the server restarted between them, it would otherwise get the new version
        without the new weights.
        """
        assert self._newest is not None
        backoff = Backoff(self._server, group)
        while True:
            try:
                with self._server.session(group) as call:
                    call("/weight_info", timeout_s=REPLY_TIMEOUT_S)
                    self._reload(call)
                    call("/reset_prefix_cache", {}, timeout_s=REPLY_TIMEOUT_S)
                    call("/update_weight_version", {"new_version": version}, timeout_s=REPLY_TIMEOUT_S)
                return
            except Unavailable as error:
                backoff.pause(error)

    def close(self) -> None:
        """Delete what was written."""
        if self._newest is not None:
            for old in self._written():
                shutil.rmtree(old, ignore_errors=True)
        self._claim.close()

    def _written(self) -> list[Path]:
        """What runs wrote into the folder, in which other folders may lie."""
        return [path for path in self._folder.glob(f"{PREFIX}*") if WRITTEN.fullmatch(path.name)]

    def _reload(self, call: Session) -> None:
        body = {"method": "reload_weights", "kwargs": {"weights_path": str(self._newest)}}
        try:
            call("/collective_rpc", body, timeout_s=LOAD_TIMEOUT_S)
        except Unavailable as error:
            if error.status == 500:  # the server is up, but its workers failed
                raise RunError(
                    f"the vLLM server at {self._server.url} can't load {self._newest} ({error}); "
                    "set engine.vllm_sync_dir to a folder that both machines can access, restart "
                    "the server with the run's model, then continue with --resume"
                ) from error
            raise

    def _write(self, weights: Weights, folder: Path) -> None:
        unfinished = folder.with_name(f"{PREFIX}unfinished-{folder.name.removeprefix(PREFIX)}")
        unfinished.mkdir(parents=True)
        for number, piece in enumerate(pieces(weights, FILE_BYTES)):
            copies = {name: tensor.to("cpu", self._dtype, copy=True).contiguous() for name, tensor in piece}
            save_file(copies, unfinished / f"model-{number:05d}.safetensors", metadata={"format": "pt"})
        unfinished.rename(folder)
