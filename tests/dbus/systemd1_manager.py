"""Units, jobs and timers: what systemd's manager does between the calls of its clients.

Part of ``fake_systemd1.py``. Follows job.c, timer.c and manager.c of systemd 252.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import systemd1_unitfile
from gi.repository import GLib
from systemd1_exec import Timer
from systemd1_processes import Log, Processes
from systemd1_service import Service
from systemd1_unitfile import UnitFile


class Refused(Exception):
    """A D-Bus error for the caller."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message)
        self.name = name if "." in name else f"org.freedesktop.systemd1.{name}"


class Signals(Protocol):
    """Who tells the bus."""

    def job_new(self, job: Job) -> None: ...
    def job_removed(self, job: Job, result: str) -> None: ...
    def unit_new(self, unit: Unit) -> None: ...
    def unit_gone(self, unit: Unit) -> None: ...
    def unit_changed(self, unit: Unit) -> None: ...


class TimerUnit:
    """A .timer with OnActiveSec= or OnBootSec=: starts its service once."""

    def __init__(self, manager: Manager, unit: Unit) -> None:
        self.manager = manager
        self.unit = unit
        self.sub_state = "dead"
        self.result = "success"
        self.invocation_id = ""
        self.next_elapse = 0
        self._timer = Timer()

    @property
    def active_state(self) -> str:
        return {"dead": "inactive", "failed": "failed"}.get(self.sub_state, "active")

    @property
    def triggers(self) -> str:
        return self.unit.file.get("Timer", "Unit") or self.unit.name.removesuffix(".timer") + ".service"

    def start(self) -> str:
        if self.active_state == "active":
            return "done"
        spans = [self.unit.file.span("Timer", key, -1.0) for key in ("OnActiveSec", "OnBootSec")]
        after = min((span for span in spans if span >= 0), default=None)
        if after is None or self.manager.unit(self.triggers).file.load_state == "not-found":
            self.result = "resources"
            self._set("failed")
            return "failed"
        self.invocation_id = os.urandom(16).hex()
        self.next_elapse = round((time.monotonic() + after) * 1e6)
        self._timer.set(max(after, 0.001), self._elapse)
        self._set("waiting")
        return "done"

    def stop(self) -> str:
        self._timer.clear()
        if self.active_state != "active":
            return "done"
        self._set("dead")
        return "done"

    def reset_failed(self) -> None:
        if self.sub_state == "failed":
            self._set("dead")

    def kill(self, whom: str, number: int) -> bool:
        return False

    def _elapse(self) -> None:
        self._set("running")
        self.manager.add_job(self.manager.unit(self.triggers), "start", "replace")
        self._set("elapsed" if self.unit.file.yes("Timer", "RemainAfterElapse", True) else "dead")

    def _set(self, state: str) -> None:
        before, self.sub_state = self.active_state, state
        self.manager.unit_changed(self.unit, before, self.active_state)


class Unit:
    def __init__(self, manager: Manager, name: str, file: UnitFile) -> None:
        self.name = name
        self.file = file
        self.job: Job | None = None
        self.active_enter = 0
        self.transient = False
        self.runs: Service | TimerUnit = (TimerUnit if name.endswith(".timer") else Service)(manager, self)

    @property
    def type(self) -> str:
        return self.file.get("Service", "Type", "simple")

    @property
    def description(self) -> str:
        return self.file.get("Unit", "Description", self.name)

    @property
    def title(self) -> str:
        """As systemd writes it in the log."""
        return self.name if self.description == self.name else f"{self.name} - {self.description}"


class Job:
    def __init__(self, number: int, unit: Unit, type: str) -> None:  # noqa: A002 - its name in D-Bus
        self.id = number
        self.unit = unit
        self.type = type
        self.running = False
        self.queued = False


class Manager:
    def __init__(self, directories: Sequence[Path], runtime: Path, log: Log) -> None:
        self.transient_directory = runtime / "transient"
        self.transient_directory.mkdir(parents=True, exist_ok=True)
        self.unit_directory = directories[0]
        self.directories = [self.transient_directory, *directories]
        self.log = log
        self.processes = Processes(log)
        self.units: dict[str, Unit] = {}
        self.signals: Signals | None = None
        self.forced_results: dict[str, list[str]] = {}
        """Fault: the next jobs of a unit end at once with these results, and do nothing."""
        self._last_job = 0
        self.notify_path = str(runtime / "notify")
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        self._notify.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._notify.bind(self.notify_path)
        os.chmod(self.notify_path, 0o666)
        GLib.io_add_watch(self._notify.fileno(), GLib.PRIORITY_HIGH, GLib.IOCondition.IN, self._notified)

    def say(self, unit: Unit, message: str) -> None:
        prefix = "" if message.startswith(("Start", "Stop")) else f"{unit.name}: "
        self.log.write(unit.name, 1, prefix + message, unit.runs.invocation_id)

    # --- units --------------------------------------------------------------------------------

    def unit(self, name: str) -> Unit:
        """The unit, loaded now when it is not yet; one that was not found is looked for again."""
        if not name.endswith((".service", ".timer")):
            raise Refused("org.freedesktop.DBus.Error.InvalidArgs", f"Unit name {name} is not valid.")
        unit = self.units.get(name)
        if unit is None:
            unit = self.units[name] = Unit(self, name, systemd1_unitfile.load(name, self.directories))
            self._tell(lambda signals: signals.unit_new(unit))
        elif unit.file.load_state != "loaded":
            unit.file = systemd1_unitfile.load(name, self.directories)
        return unit

    def loaded(self, name: str) -> Unit:
        if name not in self.units:
            raise Refused("NoSuchUnit", f"Unit {name} not loaded.")
        return self.units[name]

    def reload(self) -> None:
        for unit in list(self.units.values()):
            unit.file = systemd1_unitfile.load(unit.name, self.directories)
            self.properties_changed(unit)

    def start_transient(self, name: str, text: str) -> Job:
        if self.unit(name).file.load_state != "not-found":
            raise Refused("UnitExists", f"Unit {name} was already loaded or has a fragment file.")
        (self.transient_directory / name).write_text(text)
        unit = self.unit(name)
        unit.transient = True
        return self.add_job(unit, "start", "replace")

    def boot(self) -> None:
        """Start what multi-user.target wants, in the order After= and Before= ask for."""
        found = {path.name for d in self.directories for path in (d / "multi-user.target.wants").glob("*")}
        for name in sorted(found):
            self.add_job(self.unit(name), "start", "replace")

    # --- jobs ---------------------------------------------------------------------------------

    def add_job(self, unit: Unit, type: str, mode: str) -> Job:  # noqa: A002
        if type != "stop" and unit.file.load_state != "loaded":
            if unit.file.load_state == "masked":
                raise Refused("UnitMasked", f"Unit {unit.name} is masked.")
            reason = "not found" if unit.file.load_state == "not-found" else "has a bad unit file setting"
            name = "NoSuchUnit" if unit.file.load_state == "not-found" else "BadUnitSetting"
            raise Refused(name, f"Unit {unit.name} {reason}.")
        old = unit.job
        if old is not None:
            if old.type == type or {old.type, type} == {"start", "restart"}:
                old.type = "restart" if "restart" in (old.type, type) and not old.running else old.type
                if old.type == type:
                    return old
            if mode == "fail" and "stop" in (old.type, type):
                raise Refused("TransactionIsDestructive", f"Transaction for {unit.name}/{type} is destructive.")
            self.finish(old, "canceled")
        self._last_job += 1
        job = unit.job = Job(self._last_job, unit, type)
        self._tell(lambda signals: signals.job_new(job))
        self._queue(job)
        return job

    def auto_restart(self, unit: Unit) -> None:
        """The time of RestartSec= is over. A start that waited for it takes its place."""
        if unit.job is None:
            self.add_job(unit, "restart", "replace")
        elif unit.job.type != "stop":
            unit.job.type = "restart"
            self._queue(unit.job)

    def finish(self, job: Job, result: str) -> None:
        if job.unit.job is not job:
            return
        job.unit.job = None
        self._tell(lambda signals: signals.job_removed(job, result))
        for unit in self.units.values():  # some may have waited for the order
            if unit.job is not None and not unit.job.running:
                self._queue(unit.job)

    def _queue(self, job: Job) -> None:
        if not job.queued:
            job.queued = True
            GLib.idle_add(self._run, job, priority=GLib.PRIORITY_DEFAULT)

    def _run(self, job: Job) -> bool:
        job.queued = False
        if job.unit.job is not job or (job.type != "stop" and self._must_wait(job.unit)):
            return False
        forced = self.forced_results.get(job.unit.name)
        if forced:
            self.finish(job, forced.pop(0))
            return False
        job.running = True
        runs = job.unit.runs
        if job.type == "restart" and runs.active_state in ("inactive", "failed"):
            job.type = "start"
        answer = runs.start() if job.type == "start" else runs.stop()
        if answer == "wait":
            job.running = False
        elif answer != "run" and job.type != "restart":
            self.finish(job, answer)
        return False

    def _must_wait(self, unit: Unit) -> bool:
        after = unit.file.words("Unit", "After")
        return any(
            other.job is not None and (other.name in after or unit.name in other.file.words("Unit", "Before"))
            for other in self.units.values()
            if other is not unit
        )

    # --- what units report ----------------------------------------------------------------------

    def unit_changed(self, unit: Unit, before: str, after: str, *, will_restart: bool = False) -> None:
        if after == "active" and before != "active":
            unit.active_enter = time.time_ns() // 1000
        self.properties_changed(unit)
        job = unit.job
        if job is not None and job.running:
            self._follow(job, after)
        elif job is not None:
            self._queue(job)
        if after == "failed" and before != "failed" and not will_restart:
            for name in unit.file.words("Unit", "OnFailure"):
                self.say(unit, f"Triggering OnFailure= dependencies: {name}.")
                self.add_job(self.unit(name), "start", "replace")
        if unit.transient and after == "inactive" and unit.job is None:
            self._unload(unit)

    def properties_changed(self, unit: Unit) -> None:
        self._tell(lambda signals: signals.unit_changed(unit))

    def _follow(self, job: Job, state: str) -> None:
        ended = state in ("inactive", "failed")
        if job.type == "start":
            if state == "active":
                self.finish(job, "done")
            elif ended:
                self.finish(job, "failed" if state == "failed" else "done")
        elif ended and job.type == "restart":
            job.type, job.running = "start", False
            self._queue(job)
        elif ended:
            self.finish(job, "done")
        elif state != "deactivating":
            self.finish(job, "failed")

    def _unload(self, unit: Unit) -> None:
        (self.transient_directory / unit.name).unlink(missing_ok=True)
        self.units.pop(unit.name, None)
        self._tell(lambda signals: signals.unit_gone(unit))

    def _tell(self, what: Callable[[Signals], None]) -> None:
        if self.signals is not None:
            what(self.signals)

    def _notified(self, _fd: int, _condition: object) -> bool:
        while True:
            try:
                data, ancillary, _, _ = self._notify.recvmsg(65536, socket.CMSG_SPACE(12))
            except BlockingIOError:
                return True
            pid = next(
                (struct.unpack("3i", d[:12])[0] for _, kind, d in ancillary if kind == socket.SCM_CREDENTIALS), 0
            )
            for unit in list(self.units.values()):
                if isinstance(unit.runs, Service) and self._belongs(pid, unit.runs):
                    unit.runs.notify(pid, data.decode(errors="replace"))

    def _belongs(self, pid: int, service: Service) -> bool:
        if service.main_pid == pid:
            return True
        return service.main_pid != 0 and pid in self.processes.of_unit(service.unit.name)
