"""Open connections to a vLLM server, which can be shut down: a group of them together, or one by its deadline."""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Unavailable(Exception):
    """No answer this time: unreachable, disconnected, timed out, or (with a status) currently unable to answer."""

    def __init__(self, reason: str, status: int | None = None) -> None:
        super().__init__(reason)
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


@contextmanager
def deadline(connection: socket.socket | None, seconds: float | None) -> Iterator[None]:
    """Shut the connection down if the block takes longer; unlike a socket's time-out, it sees one byte now and then."""
    if connection is None or seconds is None:
        yield
        return
    passed = threading.Event()

    def end() -> None:
        passed.set()
        _shut_down(connection)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    except (OSError, http.client.HTTPException) as error:
        if passed.is_set():
            raise TimeoutError(f"no response within {seconds:g} s") from error
        raise
    finally:
        timer.cancel()


def _shut_down(connection: socket.socket) -> None:
    try:
        socket.socket.shutdown(connection, socket.SHUT_RDWR)  # at once, where TLS would first say goodbye
    except OSError:
        return  # the server has closed it already
