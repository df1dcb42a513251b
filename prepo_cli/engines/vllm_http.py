"""JSON over HTTP to a server that may be busy, restarting or gone: single attempts, and calls that try again.

Patience runs out when nobody has got any answer for too long, and also when one call keeps failing while the engine
notes no success at all: a server may answer everything but the work. Only the standard library is needed.
"""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from prepo_cli.errors import RunError, UsageError

CONNECT_S = 10.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 5.0
TRY_AGAIN = (408, 429, 500, 502, 503, 504)


class Unavailable(Exception):
    """No answer this time: not reached, broken off, timed out, or (with a status) in no state to answer."""

    def __init__(self, reason: str, status: int | None = None) -> None:
        super().__init__(reason)
        self.status = status


class Refused(RunError):
    """An answer that the same call would get again."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Calls:
    """Calls under way, which can be broken off together."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._live: set[socket.socket] = set()
        self.ended = threading.Event()

    def drop(self) -> None:
        """Break off what is under way; later calls go through."""
        with self._lock:
            for line in self._live:
                _shut(line)

    def end(self) -> None:
        """Break off what is under way and all that would come."""
        self.ended.set()
        self.drop()

    @contextmanager
    def listed(self, line: socket.socket) -> Iterator[None]:
        """Hold a connected socket among those that `drop` shuts."""
        with self._lock:
            if self.ended.is_set():
                raise Unavailable("broken off")
            self._live.add(line)
        try:
            yield
        finally:
            with self._lock:
                self._live.discard(line)


class Server:
    """A server at a base URL.

    Args:
        base_url: http or https, without the trailing /v1.
        patience_s: seconds without success after which calls give up.

    Raises:
        UsageError: not such a URL.
    """

    def __init__(self, base_url: str, patience_s: float) -> None:
        self.url = base_url.rstrip("/").removesuffix("/v1")
        self.patience_s = patience_s
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError(f"engine.vllm_server_base_url={base_url}: write http://HOST:PORT")
        self.host = parts.hostname
        self.port = parts.port or (443 if parts.scheme == "https" else 80)
        self._kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._prefix = parts.path
        self._last_success = 0.0
        self._silent_since: float | None = None

    def once(self, path: str, body: Any = None, *, timeout_s: float | None = None, calls: Calls | None = None) -> Any:
        """One attempt over a connection of its own; POST where there is a body.

        Raises:
            Unavailable: worth another attempt; Refused: not.
        """
        with self.session(timeout_s, calls) as session:
            return session(path, body)

    def patiently(self, path: str, body: Any = None, *, timeout_s: float = 60.0, calls: Calls | None = None) -> Any:
        """Attempts with growing pauses until there is an answer.

        Raises:
            Refused: the server will not do it; RunError: patience has run out.
        """
        waiting = Waiting(self, calls)
        while True:
            try:
                return self.once(path, body, timeout_s=timeout_s, calls=calls)
            except Unavailable as error:
                waiting.pause(error)

    @contextmanager
    def session(self, timeout_s: float | None = None, calls: Calls | None = None) -> Iterator[Session]:
        """Several calls over one connection, and so to one process: it never connects again."""
        connection = self._kind(self.host, self.port, timeout=CONNECT_S)
        try:
            try:
                connection.connect()
            except OSError as error:
                raise Unavailable(_reason(error)) from error
            line = connection.sock
            assert line is not None
            line.settimeout(timeout_s)
            line.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            with (calls or Calls()).listed(line):
                yield Session(self, connection)
        finally:
            connection.close()

    def answered(self) -> None:
        """Note that the server is there."""
        self._silent_since = None

    def succeeded(self) -> None:
        """Note that the server has done its work."""
        self._last_success = time.monotonic()

    def failed(self, error: Unavailable, since: float) -> None:
        """Raise RunError if the server has been silent, or a call failing `since` then, for too long."""
        now = time.monotonic()
        if error.status is None and self._silent_since is None:
            self._silent_since = now
        if now - min(self._silent_since or now, max(self._last_success, since)) > self.patience_s:
            raise RunError(
                f"nothing came from the vLLM server at {self.url} for {self.patience_s:g} s ({error}); start it again "
                "and go on with --resume"
            ) from error


class Session:
    """Calls over one open connection."""

    def __init__(self, server: Server, connection: http.client.HTTPConnection) -> None:
        self._server, self._connection = server, connection
        connection.auto_open = 0

    def __call__(self, path: str, body: Any = None) -> Any:
        """The decoded answer, None where it is empty; raises Unavailable and Refused as `Server.once` does."""
        text = None if body is None else json.dumps(body)
        try:
            self._connection.request(
                "GET" if text is None else "POST",
                self._server._prefix + path,
                text,
                {"Content-Type": "application/json"},
            )
            response = self._connection.getresponse()
            raw = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise Unavailable(_reason(error)) from error
        self._server.answered()
        if response.status in TRY_AGAIN:
            raise Unavailable(f"status {response.status}: {_message(raw)}", response.status)
        if response.status >= 400:
            message = f"the vLLM server at {self._server.url} refuses {path}: {_message(raw)}"
            raise Refused(message, response.status)
        return json.loads(raw) if raw else None


class Waiting:
    """The pauses between attempts at one thing."""

    def __init__(self, server: Server, calls: Calls | None = None) -> None:
        self._server, self._calls = server, calls or Calls()
        self._first_failure: float | None = None
        self._next = FIRST_PAUSE_S

    def pause(self, error: Unavailable) -> None:
        """Wait before the next attempt; raises RunError if patience has run out, Unavailable if the calls ended."""
        if self._calls.ended.is_set():
            raise error
        if self._first_failure is None:
            self._first_failure = time.monotonic()
        self._server.failed(error, self._first_failure)
        if self._calls.ended.wait(self._next):
            raise error
        self._next = min(2 * self._next, LONGEST_PAUSE_S)


def _shut(line: socket.socket) -> None:
    try:
        line.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # the other side was faster


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _message(raw: bytes) -> str:
    """The message of vLLM's error, in one line."""
    text = raw.decode("utf-8", errors="replace")
    try:
        answer = json.loads(text)
    except ValueError:
        answer = None
    if isinstance(answer, dict):
        error = answer.get("error", answer.get("detail", text))
        text = str(error.get("message", error)) if isinstance(error, dict) else str(error)
    return " ".join(text.split())[:300] or "no reason given"
