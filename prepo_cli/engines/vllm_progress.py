"""Whether a vLLM server's engine makes progress: its front end keeps answering while the engine behind it hangs."""

from __future__ import annotations

import time

from prepo_cli.engines.vllm_connections import Unavailable
from prepo_cli.engines.vllm_http import Rejected, Server
from prepo_cli.errors import RunError

COUNTERS = ("vllm:prompt_tokens_total", "vllm:generation_tokens_total")
"""What the engine counts at /metrics; nothing does under `--disable-log-stats`, where no hang can be seen."""


class Progress:
    """The server's counts of tokens while calls wait for it."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._counts = ""
        self._since = time.monotonic()

    def check(self) -> None:
        """Raise RunError if the engine has not produced a token since the time-out."""
        now = time.monotonic()
        counts = self._read()
        if not counts or counts != self._counts:
            self._counts, self._since = counts, now
        elif now - self._since > self._server.give_up_after_s:
            raise RunError(
                f"the engine of the vLLM server at {self._server.url} has produced no token for "
                f"{self._server.give_up_after_s:g} s; restart the server, then continue with --resume"
            )

    def _read(self) -> str:
        try:
            with self._server.session() as session:
                metrics = session.text("/metrics", timeout_s=self._server.give_up_after_s)
        except (Unavailable, Rejected):
            return ""
        return "\n".join(line for line in metrics.splitlines() if line.startswith(COUNTERS))
