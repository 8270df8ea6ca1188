"""What the machine has: memory, disk, listening sockets, the speed of fsync, the clock, processes.

The functions block; call them in threads, except the cheap ones (``memory``, ``disk``, ``boot_id``,
``process_start_time``).
"""

from __future__ import annotations

import dataclasses
import os
import subprocess
import tempfile
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

import psutil

PROC = Path("/proc")


@dataclasses.dataclass(frozen=True, slots=True)
class Memory:
    """Bytes. ``available`` is the kernel's MemAvailable: free, and what could be freed without swapping."""

    total: int
    available: int


@dataclasses.dataclass(frozen=True, slots=True)
class Disk:
    """Bytes of the file system a path lies on. ``free`` is what root may still write."""

    total: int
    free: int
    device: int
    """st_dev: equal for two paths exactly when a rename between them is possible."""


@dataclasses.dataclass(frozen=True, slots=True)
class Listener:
    pid: int | None
    """None when the kernel does not say: without CAP_SYS_PTRACE, as in the agent's sandbox."""
    name: str
    address: str


@dataclasses.dataclass(frozen=True, slots=True)
class FsyncProbe:
    """Seconds per fdatasync."""

    rounds: int
    p50: float
    p99: float
    max: float


def memory() -> Memory:
    found = psutil.virtual_memory()
    return Memory(total=found.total, available=found.available)


def disk(path: Path) -> Disk:
    """The file system of ``path``, or of its nearest parent that exists."""
    while not path.exists() and path != path.parent:
        path = path.parent
    found = os.statvfs(path)
    return Disk(total=found.f_blocks * found.f_frsize, free=found.f_bfree * found.f_frsize, device=path.stat().st_dev)


def listening(ports: Collection[int]) -> dict[int, list[Listener]]:
    """Who listens on these TCP ports, on whatever address; ports nobody listens on are left out."""
    wanted = set(ports)
    found: dict[int, list[Listener]] = {}
    for connection in psutil.net_connections("tcp"):
        local: Any = connection.laddr  # a named tuple, or () for a socket not bound
        if connection.status == psutil.CONN_LISTEN and local and local.port in wanted:
            listener = Listener(connection.pid, _process_name(connection.pid), local.ip)
            listeners = found.setdefault(local.port, [])
            if listener not in listeners:
                listeners.append(listener)
    return found


def _process_name(pid: int | None) -> str:
    if pid is None:
        return ""
    try:
        return str(psutil.Process(pid).name())
    except psutil.NoSuchProcess:
        return ""


def fsync_probe(directory: Path, rounds: int = 100, block: int = 2300) -> FsyncProbe:
    """Measure fdatasync in a directory the way etcd's WAL uses it: small appends, each synced.

    2,300 bytes is what etcd's own advice for measuring a disk takes for the size of its writes. OSError when
    the directory cannot be written. The file has no name, so nothing is left whatever happens.
    """
    times = []
    data = os.urandom(block)
    fd = _nameless_file(directory)
    try:
        for _ in range(rounds):
            os.write(fd, data)
            began = time.perf_counter()
            os.fdatasync(fd)
            times.append(time.perf_counter() - began)
    finally:
        os.close(fd)
    times.sort()
    return FsyncProbe(rounds=rounds, p50=percentile(times, 50), p99=percentile(times, 99), max=times[-1])


def _nameless_file(directory: Path) -> int:
    try:
        return os.open(directory, os.O_WRONLY | os.O_TMPFILE | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno not in (95, 21, 22):  # EOPNOTSUPP, EISDIR, EINVAL: a file system without O_TMPFILE
            raise
    fd, name = tempfile.mkstemp(prefix=".k3s-ha-agent-probe-", dir=directory)
    Path(name).unlink()
    return fd


def percentile(ordered: list[float], percent: float) -> float:
    """The smallest value that at least ``percent`` of the values do not exceed (nearest rank)."""
    if not ordered:
        raise ValueError("no values")
    rank = -(-len(ordered) * percent // 100)
    return ordered[max(0, int(rank) - 1)]


CLOCK_LIMIT = 10.0
"""Seconds for systemd-timedated, which is started when somebody asks it."""


def clock_synchronised() -> bool:
    """Whether an NTP client has told the kernel that the clock is right.

    Asked of systemd-timedated, because adjtimex(2), which it reads, is closed to a unit with
    ProtectClock=. OSError when it does not answer in time or not with yes or no.
    """
    command = ["timedatectl", "show", "--property=NTPSynchronized", "--value"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=CLOCK_LIMIT, check=False)
    except subprocess.TimeoutExpired as error:
        raise TimeoutError(f"timedatectl did not answer within {CLOCK_LIMIT:.0f} seconds") from error
    answer = done.stdout.strip()
    if answer not in ("yes", "no"):
        raise OSError(done.stderr.strip() or f"timedatectl answered {answer!r}")
    return answer == "yes"


def boot_id() -> str:
    """Another one after each boot."""
    return (PROC / "sys/kernel/random/boot_id").read_text().strip()


def process_start_time(pid: int) -> int | None:
    """Clock ticks after boot when a process was started; None when there is none of that id."""
    try:
        return parse_start_time((PROC / str(pid) / "stat").read_text(errors="replace"))
    except (FileNotFoundError, ProcessLookupError):
        return None


def parse_start_time(stat: str) -> int:
    """Field 22 of /proc/<pid>/stat. The name in field 2 may itself hold spaces and brackets."""
    return int(stat.rpartition(")")[2].split()[19])
