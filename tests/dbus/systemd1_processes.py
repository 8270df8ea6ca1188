"""The processes of services: started, their output logged, found again, killed.

Part of ``fake_systemd1.py``. systemd finds the processes of a unit by cgroup; here every service
process carries a mark in its environment and leads a session, and either tells whose it is.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from gi.repository import GLib

MARK = "FAKE_SYSTEMD1_UNIT"
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_libc = ctypes.CDLL(None, use_errno=True)


def _die_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class Log:
    """JSON lines {unit, pid, message, ts, invocation_id}, as the journal would have them."""

    def __init__(self, path: str | None) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600) if path else None

    def write(self, unit: str, pid: int, message: str, invocation_id: str = "") -> None:
        if self._fd is not None:
            line = {"unit": unit, "pid": pid, "message": message, "ts": time.time(), "invocation_id": invocation_id}
            os.write(self._fd, json.dumps(line).encode() + b"\n")


class Process:
    """One process of a unit. ``ended`` is called once with (code, status) as in ExecMainCode/-Status."""

    def __init__(
        self,
        processes: Processes,
        unit: str,
        invocation_id: str,
        argv: Sequence[str],
        environment: Mapping[str, str],
        directory: str | None,
        ended: Callable[[Process, int, int], None],
    ) -> None:
        self.unit = unit
        self.pid = 0
        self._processes = processes
        self._invocation_id = invocation_id
        self._ended = ended
        self._rest = b""
        read, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        os.set_blocking(write, True)
        self._output: int | None = read
        try:
            child = subprocess.Popen(
                list(argv),
                stdin=subprocess.DEVNULL,
                stdout=write,
                stderr=write,
                env={**environment, MARK: f"{processes.instance}:{unit}"},
                cwd=directory or "/",
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )
        except (OSError, IndexError) as error:
            processes.log.write(unit, 1, f"Failed to execute {argv[0] if argv else '?'}: {error}", invocation_id)
            os.close(read)
            self._output = None
            GLib.idle_add(self._report, 1, 203)  # systemd: 203/EXEC
            return
        finally:
            os.close(write)
        child.returncode = 0  # GLib waits for it, not subprocess
        self.pid = child.pid
        processes.known[self.pid] = self
        GLib.io_add_watch(read, GLib.PRIORITY_DEFAULT, GLib.IOCondition.IN | GLib.IOCondition.HUP, self._readable)
        GLib.child_watch_add(GLib.PRIORITY_DEFAULT, self.pid, self._reaped)

    def kill(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            if self.pid and self.pid in self._processes.known:
                os.kill(self.pid, number)

    def _readable(self, _fd: int, _condition: object) -> bool:
        return self._output is not None and self._drain()

    def _drain(self) -> bool:
        """Log what has been written so far; False when there will be no more."""
        assert self._output is not None
        while True:
            try:
                data = os.read(self._output, 65536)
            except BlockingIOError:
                return True
            *lines, self._rest = (self._rest + data).split(b"\n")
            if not data and self._rest:
                lines, self._rest = [self._rest], b""
            for line in lines:
                self._processes.log.write(self.unit, self.pid, line.decode(errors="replace"), self._invocation_id)
            if not data:
                os.close(self._output)
                self._output = None
                return False

    def _reaped(self, pid: int, wait_status: int) -> None:
        self._processes.known.pop(pid, None)
        if self._output is not None:
            self._drain()
        if os.WIFSIGNALED(wait_status):
            self._report(3 if os.WCOREDUMP(wait_status) else 2, os.WTERMSIG(wait_status))
        else:
            self._report(1, os.WEXITSTATUS(wait_status))

    def _report(self, code: int, status: int) -> bool:
        self._ended(self, code, status)
        return False


class Processes:
    def __init__(self, log: Log) -> None:
        self.log = log
        self.instance = f"{os.getpid()}-{time.time_ns()}"
        self.known: dict[int, Process] = {}
        _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)
        GLib.timeout_add(1000, self._reap_orphans)

    def of_unit(self, unit: str) -> list[int]:
        """Living processes of a unit, whoever their parent is now."""
        return find_marked(f"{self.instance}:{unit}", {p.pid for p in self.known.values() if p.unit == unit})

    def kill_everything(self) -> None:
        """Before the program ends: nothing it started is left."""
        for _ in range(50):
            pids = set(find_marked(f"{self.instance}:", set())) | set(_children())
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            while True:
                try:
                    if os.waitpid(-1, os.WNOHANG)[0] == 0:
                        break
                except ChildProcessError:
                    if not pids:
                        return
                    break
            time.sleep(0.01)

    def _reap_orphans(self) -> bool:
        for pid in _children():
            if pid not in self.known:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)
        return True


def _children() -> list[int]:
    with contextlib.suppress(OSError):
        return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]
    return []


def find_marked(mark: str, sessions: set[int]) -> list[int]:
    """Living processes with ``mark`` in their environment, or in one of the sessions."""
    needle = f"{MARK}={mark}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            stat = (entry / "stat").read_bytes().rpartition(b")")[2].split()
            if stat[0] in (b"Z", b"X"):
                continue
            environment = (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        exact = (needle in environment) if not mark.endswith(":") else any(e.startswith(needle) for e in environment)
        if exact or int(stat[3]) in sessions:
            found.append(int(entry.name))
    return found
