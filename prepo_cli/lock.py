"""One process at a time: a lock file beside what a process writes.

The kernel's lock on the file ends with the process that holds it, however that process ends, and of several that ask at
once one gets it. What the file says is for people, and for other machines and file systems, which the kernel's lock may
not reach: there the lock of a dead process stays until `--break-lock`.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

import psutil

from prepo_cli.errors import NO_ROOM, UsageError
from prepo_cli.ownership import LOCK, refuse_non_folder
from prepo_cli.terminal import say
from prepo_cli.text import redacted

LONGEST_BYTES = 65_536
NAMED_WITHIN_SECONDS = 0.5
"""How long a process that has just taken the kernel's lock may need to write its name."""
WITHOUT_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)
"""What a file system says that has no such locks."""


@dataclass(frozen=True)
class Holder:
    """The process that a lock file names, when it was started (seconds since 1970), and since when it has the lock."""

    pid: int
    host: str
    started: float
    since: str
    command: str

    @classmethod
    def me(cls) -> Holder:
        """This process."""
        now = datetime.now().astimezone().isoformat(" ", "seconds")
        return cls(os.getpid(), socket.gethostname(), psutil.Process().create_time(), now, redacted(" ".join(sys.argv)))

    @property
    def is_here(self) -> bool:
        """Whether it runs, or ran, on this machine."""
        return self.host == socket.gethostname()

    @property
    def is_alive(self) -> bool:
        """Whether it runs on this machine now; another process may have got its number since."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.started) < 1
            return self.is_here and same and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} since {self.since}"


@contextmanager
def locked(path: Path, what: Path, break_lock: bool = False) -> Iterator[None]:
    """Hold the lock file `path`, which is deleted at the end; processes that this one forks neither hold nor delete it.

    Args:
        path: the lock file, in a folder that exists.
        what: what it locks, for messages.
        break_lock: take over the lock of a process on another machine.

    Raises:
        UsageError: another process holds it, or it can't be written.
    """
    try:
        descriptor, me = _acquire(path, what, break_lock)
    except OSError as error:
        cure = "free some space, or choose" if error.errno in NO_ROOM else "choose"
        raise UsageError(f"can't lock {what} ({path.name}: {error.strerror}); {cure} another folder") from error
    _held.add(descriptor)
    try:
        yield
    finally:
        if descriptor in _held:  # not so in a forked process
            _held.remove(descriptor)
            if _is_file_of(descriptor, path) and _read(descriptor) == me:
                path.unlink()
            os.close(descriptor)


def read_holder(path: Path) -> Holder | None:
    """The process that the lock file `path` names, which may have ended; None if there is none, or it names none."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        return _read(descriptor)
    finally:
        os.close(descriptor)


def refuse_in_use(path: Path, what: Path) -> None:
    """Refuse, without taking the lock file `path`, what a process of this machine says there that it uses.

    Raises:
        UsageError: another process, which is alive, uses it.
    """
    holder = read_holder(path)
    if holder is not None and holder.is_alive:
        raise _in_use(what, holder)


@contextmanager
def locked_folder(path: Path, break_lock: bool = False) -> Iterator[None]:
    """Hold the lock of an output folder, which is made if need be, and deleted again if nothing gets into it.

    Raises:
        UsageError: another process uses the folder, or it can't be made.
    """
    refuse_non_folder(path)
    is_new = not path.exists()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"can't write to {path} ({error.strerror}); choose another --output-dir") from error
    try:
        with locked(path / LOCK, path, break_lock):
            yield
    finally:
        if is_new and not any(path.iterdir()):
            path.rmdir()


_held: set[int] = set()


def _let_go() -> None:
    """Close the locks of the parent, which stay its own."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_let_go)


def _acquire(path: Path, what: Path, break_lock: bool) -> tuple[int, Holder]:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
        try:
            free = _take(descriptor)
            if _is_file_of(descriptor, path):
                holder = _wait_for_name(descriptor) if free is False else _read(descriptor)
                _refuse_holder(holder, free, what, break_lock)
                me = Holder.me()
                try:
                    _write(descriptor, me)
                except OSError:
                    path.unlink()  # it is this process's, but can't say so
                    raise
                return descriptor, me
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # its holder has just deleted the file


def _take(descriptor: int) -> bool | None:
    """Take the kernel's lock; whether it was free, None where the file system has none."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in WITHOUT_LOCKS:
            raise
        return None
    return True


def _refuse_holder(holder: Holder | None, free: bool | None, what: Path, break_lock: bool) -> None:
    """Refuse a holder that is alive, or may be; tell of one that is not."""
    if free is False or (free is None and holder is not None and holder.is_alive):
        raise _in_use(what, holder)
    if holder is None:
        return
    if not holder.is_here and not break_lock:
        raise UsageError(
            f"{what} is in use by {holder}, on another machine; if that process has ended, pass --break-lock"
        )
    ended = "as requested by --break-lock" if not holder.is_here else "which ended without releasing it"
    say(f"taking over {what} from {holder}, {ended}")


def _in_use(what: Path, holder: Holder | None) -> UsageError:
    return UsageError(f"{what} is in use by {holder or 'another process'}; wait for it to end, or stop it")


def _write(descriptor: int, holder: Holder) -> None:
    content = json.dumps(asdict(holder)).encode()
    os.ftruncate(descriptor, 0)
    if os.pwrite(descriptor, content, 0) < len(content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _read(descriptor: int) -> Holder | None:
    """The holder that a lock file names; None in an empty one, which a kill leaves right after the start."""
    content = os.pread(descriptor, LONGEST_BYTES, 0)
    if not content:
        return None
    try:
        found = json.loads(content)
        return Holder(
            int(found["pid"]),
            str(found["host"]),
            float(found["started"]),
            *map(str, (found["since"], found["command"])),
        )
    except (ValueError, TypeError, KeyError):
        return Holder(0, "an unknown machine", 0.0, "an unknown time", "")


def _wait_for_name(descriptor: int) -> Holder | None:
    """The holder of a lock that is taken; until it has written its name, the file may be empty or name another."""
    until = time.monotonic() + NAMED_WITHIN_SECONDS
    while True:
        holder = _read(descriptor)
        named = holder is not None and (holder.is_alive or not holder.is_here)
        if named or time.monotonic() > until:
            return holder
        time.sleep(0.01)


def _is_file_of(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False
