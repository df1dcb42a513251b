"""JSON over HTTP to a server that may be busy, restarting or down: single attempts, and calls that are retried.

Retries give up once the server has not answered anything for too long, and also when one call keeps failing while the
engine records no success: a server may answer everything except the actual work. An answer has a deadline and a limit
on its size, and one that is no JSON ends the run, as no retry would mend it. Needs only the standard library.

Credentials in the server's address are sent, as is an API key in `VLLM_API_KEY`; no message shows them.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

from prepo_cli.engines.vllm_connections import CallGroup, Unavailable, deadline
from prepo_cli.errors import RunError, UsageError, one_line
from prepo_cli.sections.engine import ADDRESS_VARIABLE, NOT_AN_ADDRESS, is_address
from prepo_cli.text import HIDDEN, brief

CONNECT_TIMEOUT_S = 10.0
BODY_TIMEOUT_S = 120.0
"""For an answer's body once it has begun, where the call itself may take as long as it takes."""
MAX_BYTES = 2**24
API_KEY_VARIABLE = "VLLM_API_KEY"
CURES = {
    401: f"; pass its credentials in the address or in {API_KEY_VARIABLE}",
    404: "; check that engine.vllm_server_base_url is the address of this run's vLLM server",
}
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 5.0
RETRYABLE = (408, 429, 500, 502, 503, 504)


class Rejected(RunError):
    """An error that retrying the same call would not fix."""


class Server:
    """A server at a base URL.

    Args:
        base_url: http or https, with credentials if need be; a trailing /v1 is ignored. `url` is without credentials.
        give_up_after_s: seconds without success after which calls are no longer retried.

    Raises:
        UsageError: the URL is not of that form, or lacks the credentials that it was given with.
    """

    def __init__(self, base_url: str, give_up_after_s: float) -> None:
        if not is_address(base_url):
            raise UsageError(NOT_AN_ADDRESS)
        if HIDDEN in base_url:
            raise UsageError(
                f"engine.vllm_server_base_url={base_url} was stored without its credentials; pass it again with --set, "
                f"or in the environment variable {ADDRESS_VARIABLE}"
            )
        self.give_up_after_s = give_up_after_s
        parts = urlsplit(base_url)
        self.host = parts.hostname or ""
        self.port = parts.port or (443 if parts.scheme == "https" else 80)
        self._kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._prefix, self._query = parts.path.rstrip("/").removesuffix("/v1"), parts.query
        self.url = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{self._prefix}"
        self.headers = {"Content-Type": "application/json", **_authorization(parts)}
        self._last_success = 0.0
        self._silent_since: float | None = None

    def target(self, path: str) -> str:
        """What a request for a path asks for."""
        separator = "&" if "?" in path else "?"
        return f"{self._prefix}{path}{separator}{self._query}" if self._query else f"{self._prefix}{path}"

    def call(
        self,
        path: str,
        body: Any = None,
        *,
        timeout_s: float | None = None,
        group: CallGroup | None = None,
        max_bytes: int = MAX_BYTES,
    ) -> Any:
        """One attempt over a new connection; POST if there is a body, else GET.

        Raises:
            Unavailable: a retry may succeed; Rejected: it would not.
        """
        with self.session(group) as session:
            return session(path, body, timeout_s=timeout_s, max_bytes=max_bytes)

    def retry(self, path: str, body: Any = None, *, timeout_s: float = 60.0, group: CallGroup | None = None) -> Any:
        """Attempts with growing pauses until there is an answer, each of `timeout_s` at most.

        Raises:
            Rejected: the server will not do it; RunError: `give_up_after_s` have passed.
        """
        backoff = Backoff(self, group, time.monotonic())
        while True:
            try:
                return self.call(path, body, timeout_s=min(timeout_s, self.give_up_after_s), group=group)
            except Unavailable as error:
                backoff.pause(error)

    @contextmanager
    def session(self, group: CallGroup | None = None) -> Iterator[Session]:
        """Several calls over one connection, and therefore to one server process: it never reconnects."""
        connection = self._kind(self.host, self.port, timeout=CONNECT_TIMEOUT_S)
        try:
            try:
                connection.connect()
            except (ssl.SSLEOFError, ssl.SSLZeroReturnError) as error:  # it ended in the middle of the handshake
                raise Unavailable(one_line(error)) from error
            except ssl.SSLError as error:
                raise Rejected(
                    f"no secure connection to the vLLM server at {self.url} ({one_line(error)}); "
                    "give it a valid certificate, set SSL_CERT_FILE to its issuer's, or use "
                    "http:// if it does not use TLS"
                ) from error
            except OSError as error:
                raise Unavailable(one_line(error)) from error
            opened = connection.sock
            assert opened is not None
            opened.settimeout(None)  # a deadline for each call takes its place
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
                f"no response from the vLLM server at {self.url} for {self.give_up_after_s:g} s "
                f"({error}); restart it, then continue with --resume"
            ) from error


class Session:
    """Calls over one open connection."""

    def __init__(self, server: Server, connection: http.client.HTTPConnection) -> None:
        self._server, self._connection = server, connection
        connection.auto_open = 0

    def __call__(
        self, path: str, body: Any = None, *, timeout_s: float | None = None, max_bytes: int = MAX_BYTES
    ) -> Any:
        """The decoded answer, None if it is empty; raises Unavailable and Rejected as `Server.call` does."""
        text = self.text(path, body, timeout_s=timeout_s, max_bytes=max_bytes)
        try:
            return json.loads(text) if text else None
        except (ValueError, RecursionError) as error:
            raise Rejected(
                f"the vLLM server at {self._server.url} returned '{brief(text[:200], 60)}' for "
                f"{path} instead of valid JSON; check that it is vLLM"
            ) from error

    def text(self, path: str, body: Any = None, *, timeout_s: float | None = None, max_bytes: int = MAX_BYTES) -> str:
        """The answer as it is; raises Unavailable and Rejected as `Server.call` does."""
        response, raw = self._exchange(path, body, timeout_s, max_bytes)
        self._server.record_answer()
        whose = f"the vLLM server at {self._server.url}"
        if response.status in RETRYABLE:
            raise Unavailable(f"status {response.status}: {_message(raw)}", response.status)
        if response.status >= 400:
            raise Rejected(
                f"{whose} rejected {path} ({response.status}): {_message(raw)}{CURES.get(response.status, '')}"
            )
        if response.status >= 300:
            there = brief(response.headers.get("Location", "elsewhere"), 200)
            raise Rejected(f"{whose} redirects {path} to {there}; set engine.vllm_server_base_url to the server itself")
        if len(raw) > max_bytes:
            raise Rejected(f"{whose} returned more than {max_bytes:,} bytes for {path}; check that it is vLLM")
        return raw.decode("utf-8", errors="replace")

    def _exchange(
        self, path: str, body: Any, timeout_s: float | None, max_bytes: int
    ) -> tuple[http.client.HTTPResponse, bytes]:
        """The response and its body, of which one byte too many is read."""
        connection, text = self._connection, None if body is None else json.dumps(body)
        opened = connection.sock  # which the connection forgets once the server says that it will close it
        try:
            with deadline(opened, timeout_s):
                connection.request(
                    "GET" if text is None else "POST", self._server.target(path), text, self._server.headers
                )
                response = connection.getresponse()
            with deadline(opened, timeout_s or BODY_TIMEOUT_S):
                raw = response.read(max_bytes + 1)
        except (OSError, http.client.HTTPException) as error:
            raise Unavailable(one_line(error)) from error
        if response.length and len(raw) <= max_bytes:
            raise Unavailable("the response was cut off")
        return response, raw


class Backoff:
    """Growing pauses between the attempts at one call, which is failing from its first failure on, or from `since`."""

    def __init__(self, server: Server, group: CallGroup | None = None, since: float | None = None) -> None:
        self._server, self._group, self._since = server, group or CallGroup(), since
        self._next = FIRST_PAUSE_S

    def pause(self, error: Unavailable) -> None:
        """Wait before the next attempt; raises RunError when it is time to give up, `error` if the group is closed."""
        if self._group.closed.is_set():
            raise error
        if self._since is None:
            self._since = time.monotonic()
        self._server.record_failure(error, self._since)
        if self._group.closed.wait(self._next):
            raise error
        self._next = min(2 * self._next, LONGEST_PAUSE_S)


def _authorization(parts: SplitResult) -> dict[str, str]:
    if parts.username is not None:
        user = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        return {"Authorization": f"Basic {base64.b64encode(user.encode()).decode()}"}
    key = os.environ.get(API_KEY_VARIABLE)
    return {"Authorization": f"Bearer {key}"} if key else {}


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
