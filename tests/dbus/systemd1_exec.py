"""What a service runs: its commands one after the other, with their environment; timers; signals.

Part of ``fake_systemd1.py``.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from gi.repository import GLib
from systemd1_processes import Process
from systemd1_unitfile import Command, parse_environment_file

if TYPE_CHECKING:
    from systemd1_manager import Manager, Unit

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Timer:
    """A GLib timeout that can be set again and taken back."""

    def __init__(self) -> None:
        self._source = 0

    def set(self, seconds: float, act: Callable[[], None]) -> None:
        self.clear()
        if seconds not in (0, float("inf")):
            self._source = GLib.timeout_add(max(1, round(seconds * 1000)), self._fire, act)

    def clear(self) -> None:
        if self._source:
            GLib.source_remove(self._source)
            self._source = 0

    def _fire(self, act: Callable[[], None]) -> bool:
        self._source = 0
        act()
        return False


class Commands:
    """Runs the commands of a service. ``Service`` adds the states."""

    def __init__(self, manager: Manager, unit: Unit) -> None:
        self.manager = manager
        self.unit = unit
        self.sub_state = "dead"
        self.main: Process | None = None
        self.main_pid = 0
        self.control: Process | None = None
        self.exec_main = (0, 0, 0)  # pid, code, status
        self.invocation_id = ""
        self.environment: dict[str, str] = {}

    def _remember_main(self) -> None:
        assert self.main is not None
        self.main_pid = self.main.pid
        self.exec_main = (self.main.pid, 0, 0)

    def _spawn(self, command: Command, ended: Callable[[Process, int, int], None]) -> Process:
        return Process(
            self.manager.processes,
            self.unit.name,
            self.invocation_id,
            command.expanded(self.environment),
            self.environment,
            self.unit.file.get("Service", "WorkingDirectory").lstrip("-") or None,
            ended,
        )

    def _run_commands(
        self, commands: list[Command], then: Callable[[], None], failed: Callable[[str], None], *, main: bool = False
    ) -> None:
        """Run commands one after the other; ends early when the service has left this state."""
        state = self.sub_state
        if not commands:
            then()
            return

        def ended(process: Process, code: int, status: int) -> None:
            if main:
                self.exec_main = (process.pid, code, status)
                self.main, self.main_pid = None, 0
            else:
                self.control = None
            if self.sub_state != state:
                return
            if (code, status) == (1, 0) or commands[0].ignore_failure:
                self._run_commands(commands[1:], then, failed, main=main)
            else:
                what = "Main" if main else "Control"
                self.manager.say(self.unit, f"{what} process exited, code={code}, status={status}")
                failed({1: "exit-code", 2: "signal", 3: "core-dump"}[code])

        process = self._spawn(commands[0], ended)
        if main:
            self.main = process
            self._remember_main()
        else:
            self.control = process

    def _environment(self) -> dict[str, str]:
        environment = {"PATH": _PATH, "LANG": "C.UTF-8", "INVOCATION_ID": self.invocation_id}
        environment.update(self.unit.file.environment())
        for path, optional in self.unit.file.environment_files():
            if not (optional and not Path(path).exists()):
                environment.update(parse_environment_file(Path(path).read_text()))
        if self.unit.type == "notify" or self.unit.file.get("Service", "NotifyAccess", "none") != "none":
            environment["NOTIFY_SOCKET"] = self.manager.notify_path
        limit = self.unit.file.span("Service", "WatchdogSec", 0)
        if limit:
            environment["WATCHDOG_USEC"] = str(round(limit * 1e6))
        return environment


def kill(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def signal_number(text: str) -> int:
    return int(text) if text.isdigit() else int(signal.Signals[text])
