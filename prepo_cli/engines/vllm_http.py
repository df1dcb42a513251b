"""JSON over HTTP to a server that may be busy, restarting or down: single attempts, and calls that are retried.

Retries give up once the server has not answered anything for too long, and also when one call keeps failing while the
engine records no success: a server may answer everything except the actual work. Needs only the standard library.
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

from prepo_cli.errors import RunError, UsageError, one_line

CONNECT_TIMEOUT_S = 10.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 5.0
RETRYABLE = (408, 429, 500, 502, 503, 504)


class Unavailable(Exception):
    """No answer this time: unreachable, disconnected, timed out, or (with a status) currently unable to answer."""

    def __init__(self, reason: str, status: int | None = None) -> None:
        super().__init__(reason)
        self.status = status


class Rejected(RunError):
    """An error that retrying the same call would not fix."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class CallGroup:
    """Calls in flight that can be aborted together."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self.closed = threading.Event()

    def abort(self) -> None:
        """Abort the calls in flight; later calls go through."""
        with self._lock:
            for connection in self._open:
                _shut_down(connection)

    def close(self) -> None:
        """Abort the calls in flight and refuse later ones."""
        self.closed.set()
        self.abort()

    @contextmanager
    def joined_by(self, connection: socket.socket) -> Iterator[None]:
        """Keep an open connection among those that `abort` shuts down."""
        with self._lock:
            if self.closed.is_set():
                raise Unavailable("aborted")
            self._open.add(connection)
        try:
            yield
        finally:
            with self._lock:
                self._open.discard(connection)


class Server:
    """A server at a base URL.

    Args:
        base_url: http or https; a trailing /v1 is ignored.
        give_up_after_s: seconds without success after which calls are no longer retried.

    Raises:
        UsageError: the URL is not of that form.
    """

    def __init__(self, base_url: str, give_up_after_s: float) -> None:
        self.url = base_url.rstrip("/").removesuffix("/v1")
        self.give_up_after_s = give_up_after_s
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError(f"engine.vllm_server_base_url={base_url} is not a server's URL; write http://HOST:PORT")
        self.host = parts.hostname
        self.port = parts.port or (443 if parts.scheme == "https" else 80)
        self._kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._prefix = parts.path
        self._last_success = 0.0
        self._silent_since: float | None = None

    def call(
        self, path: str, body: Any = None, *, timeout_s: float | None = None, group: CallGroup | None = None
    ) -> Any:
        """One attempt over a new connection; POST if there is a body, else GET.

        Raises:
            Unavailable: a retry may succeed; Rejected: it would not.
        """
        with self.session(timeout_s, group) as session:
            return session(path, body)

    def retry(self, path: str, body: Any = None, *, timeout_s: float = 60.0, group: CallGroup | None = None) -> Any:
        """Attempts with growing pauses until there is an answer.

        Raises:
            Rejected: the server will not do it; RunError: `give_up_after_s` have passed.
        """
        backoff = Backoff(self, group)
        while True:
            try:
                return self.call(path, body, timeout_s=timeout_s, group=group)
            except Unavailable as error:
                backoff.pause(error)

    @contextmanager
    def session(self, timeout_s: float | None = None, group: CallGroup | None = None) -> Iterator[Session]:
        """Several calls over one connection, and therefore to one server process: it never reconnects."""
        connection = self._kind(self.host, self.port, timeout=CONNECT_TIMEOUT_S)
        try:
            try:
                connection.connect()
            except OSError as error:
                raise Unavailable(one_line(error)) from error
            opened = connection.sock
            assert opened is not None
            opened.settimeout(timeout_s)
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            with (group or CallGroup()).joined_by(opened):
                yield Session(self, connection)
        finally:
            connection.close()

    def record_answer(self) -> None:
        """The server has answered something."""
        self._silent_since = None

    def record_success(self) -> None:
        """The server has done its actual work."""
        self._last_success = time.monotonic()

    def record_failure(self, error: Unavailable, since: float) -> None:
        """Raise RunError if the server has been silent, or a call failing from `since` on, for too long."""
        now = time.monotonic()
        if error.status is None and self._silent_since is None:
            self._silent_since = now
        if now - min(self._silent_since or now, max(self._last_success, since)) > self.give_up_after_s:
            raise RunError(
                f"no answer from the vLLM server at {self.url} for {self.give_up_after_s:g} s ({error}); restart it, "
                "then continue with --resume"
            ) from error


class Session:
    """Calls over one open connection."""

    def __init__(self, server: Server, connection: http.client.HTTPConnection) -> None:
        self._server, self._connection = server, connection
        connection.auto_open = 0

    def __call__(self, path: str, body: Any = None) -> Any:
        """The decoded answer, None if it is empty; raises Unavailable and Rejected as `Server.call` does."""
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
            raise Unavailable(one_line(error)) from error
        self._server.record_answer()
        if response.status in RETRYABLE:
            raise Unavailable(f"status {response.status}: {_message(raw)}", response.status)
        if response.status >= 400:
            message = f"the vLLM server at {self._server.url} rejects {path}: {_message(raw)}"
            raise Rejected(message, response.status)
        return json.loads(raw) if raw else None


class Backoff:
    """Growing pauses between the attempts at one call."""

    def __init__(self, server: Server, group: CallGroup | None = None) -> None:
        self._server, self._group = server, group or CallGroup()
        self._first_failure: float | None = None
        self._next = FIRST_PAUSE_S

    def pause(self, error: Unavailable) -> None:
        """Wait before the next attempt; raises RunError when it is time to give up, `error` if the group is closed."""
        if self._group.closed.is_set():
            raise error
        if self._first_failure is None:
            self._first_failure = time.monotonic()
        self._server.record_failure(error, self._first_failure)
        if self._group.closed.wait(self._next):
            raise error
        self._next = min(2 * self._next, LONGEST_PAUSE_S)


def _shut_down(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # the server has closed it already


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
