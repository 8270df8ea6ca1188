"""A private dbus-daemon, fake_systemd1.py on it, and control over both, for tests.

    with PrivateBus(tmp) as bus, FakeSystemd(tmp, bus) as systemd:
        systemd.write_unit("x.service", "[Service]\\nExecStart=/bin/sleep 1000")
        units = Units(bus.address)

Everything is ended by the context managers; if the test process is killed, the kernel ends it.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from k3s_ha_agent.host.units import Units, UnitState

HERE = Path(__file__).parent

_CONFIG = """<busconfig><type>custom</type><listen>unix:path={path}</listen><auth>EXTERNAL</auth>
<policy context="default"><allow user="*"/><allow own="*"/><allow send_destination="*"/>
<allow receive_sender="*"/></policy></busconfig>
"""


def die_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def wait_until(condition: Callable[[], Any], what: str, timeout: float = 60.0) -> Any:
    """Poll for a condition; the limit is generous, nothing is timed."""
    until = time.monotonic() + timeout
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > until:
            raise AssertionError(f"not seen within {timeout:g} s: {what}")
        time.sleep(0.02)


async def until(units: Units, unit: str, condition: Callable[[UnitState], Any], timeout: float = 60.0) -> UnitState:
    """Read a unit until its state is as wanted."""
    async with asyncio.timeout(timeout):
        while True:
            state = await units.state(unit)
            if condition(state):
                return state
            await asyncio.sleep(0.02)


def _end(child: subprocess.Popen[bytes] | None) -> None:
    if child is None or child.poll() is not None:
        return
    child.send_signal(signal.SIGCONT)
    child.terminate()
    try:
        child.wait(20)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


class PrivateBus:
    """A dbus-daemon of the test's own. ``stop`` and ``start`` take it away and bring it back."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.path = directory / "bus"
        self.address = f"unix:path={self.path}"
        self.child: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        configuration = self._directory / "bus.conf"
        configuration.write_text(_CONFIG.format(path=self.path))
        self.path.unlink(missing_ok=True)
        self.child = subprocess.Popen(
            ["dbus-daemon", f"--config-file={configuration}", "--nofork", "--nopidfile"],
            preexec_fn=die_with_parent,
            stderr=subprocess.DEVNULL,  # it complains that it may not raise its limit of descriptors
        )
        wait_until(self._answers, "dbus-daemon listening")

    def stop(self) -> None:
        _end(self.child)
        self.child = None

    def _answers(self) -> bool:
        assert self.child is not None and self.child.poll() is None, "dbus-daemon ended"
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(self.path)) == 0

    def __enter__(self) -> PrivateBus:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class FakeSystemd:
    """fake_systemd1.py as a child. Unit files lie in ``units``, output in ``log`` (JSON lines)."""

    def __init__(self, directory: Path, bus: PrivateBus, *, boot: bool = False) -> None:
        self.units = directory / "systemd"
        self.units.mkdir(exist_ok=True)
        self.log = directory / "journal.jsonl"
        self._control = directory / "control"
        self.private = directory / "private"
        self._bus = bus
        self._boot = boot
        self.child: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, str(HERE / "fake_systemd1.py"), "--bus", self._bus.address]
        command += ["--units", str(self.units), "--log", str(self.log), "--control", str(self._control)]
        self._runtime = Path(tempfile.mkdtemp(prefix="fake-systemd1-"))
        command += ["--runtime", str(self._runtime), "--private", str(self.private)]
        self._control.unlink(missing_ok=True)
        self.child = subprocess.Popen(command + ["--boot"] * self._boot, preexec_fn=die_with_parent)
        wait_until(self._connected, "fake_systemd1 on the bus")

    def stop(self) -> None:
        """End it and everything it started, also when it was killed before and could not do so itself."""
        if self.child is None:
            return
        _end(self.child)
        for pid in marked(f"{self.child.pid}-"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self._runtime, ignore_errors=True)
        self.child = None

    def control(self, do: str, **request: Any) -> dict[str, Any]:
        """Ask something or switch a fault; see ``Control`` in fake_systemd1.py."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(30)
            connection.connect(str(self._control))
            with connection.makefile("rw") as stream:
                stream.write(json.dumps({"do": do, **request}) + "\n")
                stream.flush()
                line = stream.readline()
        assert line, f"fake_systemd1 refused {do}"
        answer: dict[str, Any] = json.loads(line)
        return answer

    def unit(self, name: str) -> dict[str, Any]:
        """What the program itself holds of a unit; {} when it is not loaded."""
        found: dict[str, Any] = self.control("state")["units"].get(name, {})
        return found

    def write_unit(self, name: str, text: str) -> Path:
        path = self.units / name
        path.write_text(text)
        return path

    def write_drop_in(self, unit: str, name: str, text: str) -> Path:
        path = self.units / f"{unit}.d" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return path

    def messages(self, unit: str | None = None) -> list[str]:
        """What has been logged so far, without a last line that is not complete."""
        if not self.log.exists():
            return []
        lines = [json.loads(line) for line in self.log.read_text().splitlines(keepends=True) if line.endswith("\n")]
        return [line["message"] for line in lines if unit in (None, line["unit"])]

    def _connected(self) -> bool:
        assert self.child is not None and self.child.poll() is None, "fake_systemd1 ended"
        with contextlib.suppress(OSError):
            return bool(self.control("state")["connected"])
        return False

    def __enter__(self) -> FakeSystemd:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def alive(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


def marked(mark: str) -> list[int]:
    """Processes of services, by the beginning of the mark they carry (see systemd1_processes.py)."""
    needle = f"FAKE_SYSTEMD1_UNIT={mark}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                environment = (entry / "environ").read_bytes().split(b"\0")
                found += [int(entry.name)] * any(word.startswith(needle) for word in environment)
    return found


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))
