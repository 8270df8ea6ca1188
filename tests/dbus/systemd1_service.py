"""One service: its states, its main and control processes, Restart=, NRestarts, notify, watchdog.

Part of ``fake_systemd1.py``. Follows service.c of systemd 252; what is checked against a real one is in
``tests/dbus/README.md``.
"""

from __future__ import annotations

import signal
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from systemd1_exec import Commands, Timer, kill, signal_number
from systemd1_processes import Process

if TYPE_CHECKING:
    from systemd1_manager import Manager, Unit

ACTIVE_STATE = {
    "dead": "inactive",
    "failed": "failed",
    "start-pre": "activating",
    "start": "activating",
    "start-post": "activating",
    "auto-restart": "activating",
    "running": "active",
    "exited": "active",
}
_CLEAN_SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGPIPE)


class Service(Commands):
    def __init__(self, manager: Manager, unit: Unit) -> None:
        super().__init__(manager, unit)
        self.result = "success"
        self.n_restarts = 0
        self.status_text = ""
        self.status_errno = 0
        self._flush_n_restarts = False
        self._forbid_restart = False
        self._timer = Timer()
        self._poll = Timer()
        self._watchdog = Timer()
        self._starts: list[float] = []

    @property
    def active_state(self) -> str:
        return ACTIVE_STATE.get(self.sub_state, "deactivating")

    # --- what jobs ask for; "wait" leaves the job queued, "done" ends it, "run" lets it run --------

    def start(self) -> str:
        if self.sub_state == "auto-restart" or self.active_state == "deactivating":
            return "wait"
        if self.active_state == "active":
            return "done"
        if self.active_state == "activating":
            return "run"
        file = self.unit.file
        if not self._start_allowed():
            self.manager.say(self.unit, "Start request repeated too quickly.")
            self.result = "start-limit-hit"
            self._set("failed")
            return "failed"
        for text in file.all("Unit", "ConditionPathExists"):
            if Path(text.lstrip("!")).exists() == text.startswith("!"):
                self.manager.say(self.unit, f"{file.name} was skipped because of a failed condition check ({text}).")
                return "done"
        if self._flush_n_restarts:
            self.n_restarts, self._flush_n_restarts = 0, False
        self._forbid_restart = False
        self.result, self.exec_main = "success", (0, 0, 0)
        self.status_text, self.status_errno = "", 0
        self.invocation_id = uuid.uuid4().hex
        self.manager.say(self.unit, f"Starting {self.unit.title}...")
        try:
            self.environment = self._environment()
        except OSError as error:
            self.manager.say(self.unit, f"Failed to load environment files: {error}")
            self.result = "resources"
            self._dead(allow_restart=True)
            return "run"
        self._set("start-pre")
        self._timer.set(self._start_timeout(), lambda: self._signal("stop-sigterm", "timeout"))
        self._run_commands(file.commands("ExecStartPre"), self._start_main, lambda r: self._signal("stop-sigterm", r))
        return "run"

    def stop(self) -> str:
        self._forbid_restart = True
        if self.sub_state in ("dead", "failed"):
            return "done"
        if self.sub_state == "auto-restart":
            self._timer.clear()
            self._set("dead")
        elif self.sub_state in ("running", "exited"):
            self.manager.say(self.unit, f"Stopping {self.unit.title}...")
            self._stop("success")
        elif self.active_state == "activating":
            self._signal("stop-sigterm", "success")
        return "run"

    def reset_failed(self) -> None:
        self._starts.clear()
        self.n_restarts, self._flush_n_restarts = 0, False
        self.result = "success"
        if self.sub_state == "failed":
            self._set("dead")

    def kill(self, whom: str, number: int) -> bool:
        if whom == "main":
            return self._kill_main(number)
        if whom == "control":
            if self.control is not None:
                self.control.kill(number)
            return self.control is not None
        pids = self.manager.processes.of_unit(self.unit.name)
        for pid in pids:
            kill(pid, number)
        return bool(pids)

    # --- starting -----------------------------------------------------------------------------

    def _start_main(self) -> None:
        commands = self.unit.file.commands("ExecStart")
        kind = self.unit.type
        if kind == "oneshot":
            self._set("start")
            self._run_commands(commands, self._started, lambda r: self._signal("stop-sigterm", r), main=True)
            return
        if kind != "notify":
            self.main = self._spawn(commands[0], self._main_ended)
            self._remember_main()
            self._set("start")
            self._started()
            return
        self.main = self._spawn(commands[0], self._main_ended)
        self._remember_main()
        self._set("start")

    def _started(self) -> None:
        """READY=1 has come, or the type needs none."""
        self._set("start-post")
        self._run_commands(
            self.unit.file.commands("ExecStartPost"), self._running, lambda r: self._signal("stop-sigterm", r)
        )

    def _running(self) -> None:
        self._timer.clear()
        if self.unit.type == "oneshot":
            if not self.unit.file.yes("Service", "RemainAfterExit"):
                self._stop("success")
                return
            self._set("exited")
        elif self.main is not None:
            self._set("running")
            self._feed_watchdog()
        else:  # it ended before we came here
            self._stop(self.result)
            return
        self.manager.say(self.unit, f"Started {self.unit.title}.")

    def _main_ended(self, process: Process, code: int, status: int) -> None:
        if process is not self.main:
            return
        self._watchdog.clear()
        clean = (code == 1 and status == 0) or (code == 2 and status in _CLEAN_SIGNALS)
        failure = "success" if clean else {1: "exit-code", 2: "signal", 3: "core-dump"}[code]
        self.exec_main = (self.main_pid, code, status)
        self.main, self.main_pid = None, 0
        name = "exited" if code == 1 else "killed"
        words = str(status) if code == 1 else f"{status}/{signal.Signals(status).name[3:]}"
        self.manager.say(self.unit, f"Main process exited, code={name}, status={words}")
        if self.result == "success":
            self.result = failure
        if self.sub_state == "start":
            self._signal("stop-sigterm", "protocol" if failure == "success" else failure)
        elif self.sub_state in ("running", "start-post"):
            self._stop(failure)

    # --- stopping -----------------------------------------------------------------------------

    def _stop(self, result: str) -> None:
        self._note(result)
        self._set("stop")
        self._timer.set(self._stop_timeout(), lambda: self._signal("stop-sigterm", "timeout"))
        commands = self.unit.file.commands("ExecStop") if self.main_pid or self.unit.type == "oneshot" else []
        self._run_commands(
            commands, lambda: self._signal("stop-sigterm", "success"), lambda r: self._signal("stop-sigterm", r)
        )

    def _signal(self, state: str, result: str) -> None:
        """Enter stop-sigterm, stop-sigkill, final-sigterm or final-sigkill."""
        self._note(result)
        mode = self.unit.file.get("Service", "KillMode", "control-group")
        hard = state.endswith("sigkill")
        number = signal.SIGKILL if hard else signal_number(self.unit.file.get("Service", "KillSignal", "SIGTERM"))
        self._set(state)
        if mode != "none":
            self._kill_main(number)
            if self.control is not None:
                self.control.kill(number)
        if mode == "control-group" or (mode == "mixed" and hard):
            for pid in self.manager.processes.of_unit(self.unit.name):
                if pid != self.main_pid:
                    kill(pid, number)
        following = {"stop-sigterm": "stop-sigkill", "final-sigterm": "final-sigkill"}.get(state)
        if following:
            self._timer.set(self._stop_timeout(), lambda: self._signal(following, "timeout"))
        else:
            self._timer.set(self._stop_timeout(), lambda: self._after_signal(state, give_up=True))
        self._after_signal(state)

    def _after_signal(self, state: str, *, give_up: bool = False) -> None:
        """Go on when what was signalled is gone."""
        if self.sub_state != state:
            return
        mode = self.unit.file.get("Service", "KillMode", "control-group")
        waits = bool(self.main or self.control)
        if mode in ("control-group", "mixed") and not waits:
            others = self.manager.processes.of_unit(self.unit.name)
            if others and mode == "mixed" and state == "stop-sigterm":
                for pid in others:
                    kill(pid, signal.SIGKILL)
            waits = bool(others)
        if waits and not give_up:
            self._poll.set(0.01, lambda: self._after_signal(state))
            return
        self._timer.clear()
        if state.startswith("stop-"):
            self._set("stop-post")
            self._timer.set(self._stop_timeout(), lambda: self._signal("final-sigterm", "timeout"))
            self._run_commands(
                self.unit.file.commands("ExecStopPost"),
                lambda: self._dead(allow_restart=True),
                lambda r: self._signal("final-sigterm", r),
            )
        else:
            self._dead(allow_restart=True)

    def _dead(self, *, allow_restart: bool) -> None:
        self._timer.clear()
        restart = allow_restart and self._shall_restart()
        if self.result != "success":
            self.manager.say(self.unit, f"Failed with result '{self.result}'.")
        self._flush_n_restarts = not restart
        self._set("dead" if self.result == "success" else "failed", will_restart=restart)
        if restart and self.sub_state in ("dead", "failed"):  # no job has taken it elsewhere meanwhile
            self._set("auto-restart")
            self._timer.set(max(self.unit.file.span("Service", "RestartSec", 0.1), 0.001), self._restart)
        elif not restart:
            self.manager.say(self.unit, f"Stopped {self.unit.title}.")

    def _restart(self) -> None:
        self.n_restarts += 1
        self.manager.say(self.unit, f"Scheduled restart job, restart counter is at {self.n_restarts}.")
        self.manager.auto_restart(self.unit)

    def _shall_restart(self) -> bool:
        if self._forbid_restart:
            return False
        policy, result = self.unit.file.get("Service", "Restart", "no"), self.result
        return {
            "no": False,
            "always": True,
            "on-success": result == "success",
            "on-failure": result != "success",
            "on-abnormal": result not in ("success", "exit-code"),
            "on-abort": result in ("signal", "core-dump"),
            "on-watchdog": result == "watchdog",
        }[policy]

    # --- notify ---------------------------------------------------------------------------------

    def notify(self, pid: int, message: str) -> None:
        access = self.unit.file.get("Service", "NotifyAccess", "main" if self.unit.type == "notify" else "none")
        if access == "none" or (access == "main" and pid != self.main_pid):
            self.manager.say(self.unit, f"Got notification message from PID {pid}, but reception is not permitted")
            return
        for line in message.splitlines():
            key, _, value = line.partition("=")
            if key == "STATUS":
                self.status_text = value
            elif key == "ERRNO":
                self.status_errno = int(value)
            elif key == "WATCHDOG" and value == "1":
                self._feed_watchdog()
            elif key == "EXTEND_TIMEOUT_USEC" and self.sub_state in ("start", "start-post"):
                self._timer.set(
                    max(int(value) / 1e6, self._start_timeout()), lambda: self._signal("stop-sigterm", "timeout")
                )
            elif key == "READY" and value == "1" and self.sub_state == "start" and self.unit.type == "notify":
                self._started()
        self.manager.properties_changed(self.unit)

    def _feed_watchdog(self) -> None:
        limit = self.unit.file.span("Service", "WatchdogSec", 0)
        if limit and self.sub_state == "running":
            self._watchdog.set(limit, self._watchdog_expired)

    def _watchdog_expired(self) -> None:
        self.manager.say(self.unit, "Watchdog timeout!")
        self._note("watchdog")
        self._kill_main(signal.SIGABRT)

    # --- small things -----------------------------------------------------------------------------

    def _set(self, state: str, *, will_restart: bool = False) -> None:
        before, self.sub_state = self.active_state, state
        self.manager.unit_changed(self.unit, before, self.active_state, will_restart=will_restart)

    def _note(self, result: str) -> None:
        if self.result == "success":
            self.result = result

    def _kill_main(self, number: int) -> bool:
        if self.main is not None and self.main_pid:
            self.main.kill(number)
            return True
        return False

    def _start_timeout(self) -> float:
        default = float("inf") if self.unit.type == "oneshot" else 90.0
        return self.unit.file.span("Service", "TimeoutStartSec", self.unit.file.span("Service", "TimeoutSec", default))

    def _stop_timeout(self) -> float:
        return self.unit.file.span("Service", "TimeoutStopSec", self.unit.file.span("Service", "TimeoutSec", 90.0))

    def _start_allowed(self) -> bool:
        interval = self.unit.file.span("Unit", "StartLimitIntervalSec", 10.0)
        burst = int(self.unit.file.get("Unit", "StartLimitBurst", "5"))
        now = time.monotonic()
        self._starts = [start for start in self._starts if now - start < interval]
        if interval and len(self._starts) >= burst:
            return False
        self._starts.append(now)
        return True
