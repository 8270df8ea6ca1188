"""One lock for everything that changes this server: the agent, and the rescue.

``flock(2)`` on ``<state_dir>/lock`` decides; the kernel takes it back when its holder ends, however it
ends. The file's content says who holds it: JSON ``{"pid", "start_time", "boot_id", "who", "since"}``. It is for
people and messages and decides nothing: after a crash it is there without a holder, and a process id
alone may belong to somebody else by now, so it is believed only with the same start time in the same
boot. The file is never removed or replaced: a second process could then lock another file of the same name.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import fcntl
import json
import os
import time
from pathlib import Path
from types import TracebackType

from k3s_ha_agent import model
from k3s_ha_agent.errors import LockHeld
from k3s_ha_agent.host.resources import boot_id, process_start_time

_POLL = 0.1


@dataclasses.dataclass(frozen=True, slots=True)
class Owner:
    """Who wrote the stamp. ``alive``: that very process runs still."""

    pid: int
    start_time: int
    """Clock ticks after boot, field 22 of /proc/<pid>/stat."""
    boot_id: str
    who: str
    since: str
    alive: bool


class Lock:
    """A lock that is held. ``release`` it, or leave the ``with`` block; both may happen twice."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self._fd: int | None = fd

    def release(self) -> None:
        if self._fd is not None:
            fd, self._fd = self._fd, None
            with contextlib.suppress(OSError):  # the stamp decides nothing, and the disk may be what has failed
                os.ftruncate(fd, 0)
            os.close(fd)

    def __enter__(self) -> Lock:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.release()


async def acquire(path: Path, who: str, timeout: float) -> Lock:
    """Take the lock, trying for ``timeout`` seconds (0: once). LockHeld when another holds it still."""
    until = time.monotonic() + timeout
    while True:
        lock = _try(path, who)
        if lock is not None:
            return lock
        if time.monotonic() >= until:
            raise LockHeld(
                f"{path} is held by {_in_words(owner(path))}.",
                next_step="Wait until it has ended; only one program may change this server at a time.",
            )
        await asyncio.sleep(_POLL)


def owner(path: Path) -> Owner | None:
    """Whose stamp the lock carries; None when there is none that can be read."""
    try:
        stamp = json.loads(path.read_text())
        pid, started, boot = int(stamp["pid"]), int(stamp["start_time"]), str(stamp["boot_id"])
        who, since = str(stamp["who"]), str(stamp["since"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    alive = boot == boot_id() and process_start_time(pid) == started
    return Owner(pid, started, boot, who, since, alive)


def _try(path: Path, who: str) -> Lock | None:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    lock = Lock(path, fd)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    try:
        stamp = {
            "pid": os.getpid(),
            "start_time": process_start_time(os.getpid()),
            "boot_id": boot_id(),
            "who": who,
            "since": model.now(),
        }
        # In place and not synced: it says nothing after a reboot, and a rename would change what is locked.
        os.ftruncate(fd, 0)
        os.pwrite(fd, json.dumps(stamp).encode() + b"\n", 0)
    except BaseException:
        lock.release()
        raise
    return lock


def _in_words(found: Owner | None) -> str:
    if found is None:
        return "a program that left no name"
    if not found.alive:
        return f"a child that {found.who} (process {found.pid}, ended) left behind"
    return f"{found.who}, process {found.pid}, since {found.since}"
