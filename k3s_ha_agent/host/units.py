"""systemd's units, jobs and transient timers, as the agent uses them.

Names and meanings are those of org.freedesktop.systemd1(5); property types are noted where they are
read. How D-Bus is talked to is in ``bus.py``.
"""

from __future__ import annotations

import asyncio
import dataclasses
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pydbus
import structlog

from k3s_ha_agent.errors import SystemdError
from k3s_ha_agent.host.bus import SYSTEMD, BusThread, Connection

_log = structlog.get_logger(__name__)

_NO_SUCH_UNIT = f"{SYSTEMD}.NoSuchUnit"
_RELOAD_SECONDS = 90.0
"""Least time a reload may take: it runs the generators, and systemd gives those 90 s."""


@dataclasses.dataclass(frozen=True, slots=True)
class UnitState:
    """A unit as systemd sees it now. What a unit that is no service does not have is empty or 0."""

    name: str
    load_state: str
    """``loaded``, ``not-found``, ``masked``, ``bad-setting``, ``error``."""
    active_state: str
    """``active``, ``reloading``, ``inactive``, ``failed``, ``activating``, ``deactivating``."""
    sub_state: str
    """For services e.g. ``running``, ``start``, ``start-pre``, ``auto-restart``, ``dead``, ``failed``."""
    result: str
    """``success``, ``exit-code``, ``signal``, ``core-dump``, ``timeout``, ``watchdog``, ``protocol``, …"""
    type: str
    """Of a service: ``notify``, ``simple``, ``oneshot``, …"""
    main_pid: int
    """0 when there is none."""
    invocation_id: str
    """32 hex digits, new for each activation; empty before the first."""
    n_restarts: int
    """Automatic restarts since the last start that was asked for, or since ``reset_failed``."""
    unit_file_state: str
    fragment_path: Path | None
    drop_in_paths: tuple[Path, ...]
    exec_start: tuple[str, ...]
    """argv of the first ``ExecStart=``, variables not yet put in."""
    environment: Mapping[str, str]
    """``Environment=`` only; what the files add is not known to systemd before the start."""
    environment_files: tuple[Path, ...]
    need_daemon_reload: bool
    restart: str
    """``Restart=``: ``no``, ``always``, ``on-failure``, …"""
    status_errno: int
    exec_main_code: int
    """How the last main process ended: 0 not yet, else CLD_EXITED 1, CLD_KILLED 2, CLD_DUMPED 3."""
    exec_main_status: int
    """Its exit code or, when killed, the signal's number."""
    status_text: str
    """What the service says about itself (``STATUS=``)."""
    active_enter_timestamp: float
    """Seconds since the epoch; 0.0 when it was never active."""
    job: int
    """Number of the job that is queued or running for it, else 0."""

    @property
    def active(self) -> bool:
        return self.active_state in ("active", "reloading")


def parse_state(name: str, properties: Mapping[str, Any]) -> UnitState:
    """The state out of all properties of a unit, whatever its type."""
    service = properties if "MainPID" in properties else {}
    fragment = str(properties["FragmentPath"])
    commands = service.get("ExecStart", ())  # a(sasbttttuii): path, argv, ignore failure, times, pid, …
    assignments = (text.partition("=") for text in service.get("Environment", ()))  # as
    return UnitState(
        name=name,
        load_state=properties["LoadState"],
        active_state=properties["ActiveState"],
        sub_state=properties["SubState"],
        result=service.get("Result", ""),
        type=service.get("Type", ""),
        main_pid=service.get("MainPID", 0),
        invocation_id=bytes(properties["InvocationID"]).hex(),  # ay
        n_restarts=service.get("NRestarts", 0),
        unit_file_state=properties["UnitFileState"],
        fragment_path=Path(fragment) if fragment else None,
        drop_in_paths=tuple(Path(path) for path in properties["DropInPaths"]),
        exec_start=tuple(commands[0][1]) if commands else (),
        environment={key: value for key, _, value in assignments},
        environment_files=tuple(Path(path) for path, _ in service.get("EnvironmentFiles", ())),  # a(sb)
        need_daemon_reload=properties["NeedDaemonReload"],
        restart=service.get("Restart", ""),
        status_errno=service.get("StatusErrno", 0),
        exec_main_code=service.get("ExecMainCode", 0),
        exec_main_status=service.get("ExecMainStatus", 0),
        status_text=service.get("StatusText", ""),
        active_enter_timestamp=properties["ActiveEnterTimestamp"] / 1_000_000,  # µs, CLOCK_REALTIME
        job=properties["Job"][0],  # (uo)
    )


class Job:
    """A job systemd has accepted. Its end is told by the JobRemoved signal, and looked for as well."""

    def __init__(self, units: Units, unit: str, verb: str, path: str) -> None:
        self.unit = unit
        self.verb = verb
        """``start``, ``stop`` or ``restart``."""
        self.path = path
        self.id = int(path.rpartition("/")[2]) if path else 0
        self._units = units
        self._ended = asyncio.Event()
        self._result: str | None = None

    async def wait(self, timeout: float, *, look_every: float = 2.0) -> str:
        """How the job ended: ``done``, ``failed``, ``canceled``, ``timeout``, ``dependency``, ``skipped``, …

        A lost signal does not matter: every ``look_every`` seconds the unit is read, and when it no
        longer has this job the result is taken from the unit's state. D-Bus may be away meanwhile.
        SystemdError when the job has not ended after ``timeout`` seconds; it goes on then, and may be
        waited for again.
        """
        trouble = ""
        try:
            async with asyncio.timeout(timeout):
                while self._result is None:
                    try:
                        async with asyncio.timeout(look_every):
                            await self._ended.wait()
                    except TimeoutError:
                        try:
                            await self._look()
                            trouble = ""
                        except SystemdError as error:
                            trouble = f" (the last look at it failed: {error.detail})"
        except TimeoutError:
            raise SystemdError(
                f"The {self.verb} job of {self.unit} did not end within {timeout:g} s{trouble}.",
                next_step=f"See `systemctl status {self.unit}` and `systemctl list-jobs`.",
                job=self.id,
            ) from None
        return self._result

    def end(self, result: str) -> None:
        """Note the result; any thread. ``announce`` then wakes who waits, in the event loop."""
        self._result = result

    def announce(self) -> None:
        self._ended.set()

    async def _look(self) -> None:
        state = await self._units.state(self.unit)
        if self._result is None and state.job != self.id:
            self._result = _result_by_state(self.verb, state)
            _log.warning(
                "The end of a systemd job was not announced; its result is taken from the state of the unit",
                unit=self.unit,
                job=self.id,
                result=self._result,
            )


def _result_by_state(verb: str, state: UnitState) -> str:
    """The result of a job that is gone without a word."""
    if verb == "stop":
        return "done" if state.active_state in ("inactive", "failed") else "canceled"
    if state.active:
        return "done"
    if state.active_state == "inactive" and state.result == "success":
        return "done" if state.type == "oneshot" else "canceled"
    return "failed"


class Units:
    """systemd. ``bus_address`` None is the system bus; every call is limited to ``call_timeout`` seconds.

    ``start`` does not connect; a call does, and connects again after the bus was away. Every method
    raises SystemdError when systemd refuses, does not answer or cannot be reached.
    """

    def __init__(self, bus_address: str | None = None, *, call_timeout: float = 10.0) -> None:
        self._call_timeout = call_timeout
        self._jobs: weakref.WeakValueDictionary[str, Job] = weakref.WeakValueDictionary()
        self._thread = BusThread(bus_address, call_timeout, self._job_removed)
        self._loop: asyncio.AbstractEventLoop | None = None

    async def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    async def close(self) -> None:
        await self._thread.close()

    async def __aenter__(self) -> Units:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def state(self, unit: str) -> UnitState:
        """Read a unit, loading it when needed; one that does not exist has ``load_state`` ``not-found``."""

        def act(connection: Connection) -> UnitState:
            path = connection.manager("LoadUnit", unit)
            found = parse_state(unit, connection.properties(path))
            connection.dispatch()
            return found

        return await self._thread.run(f"read the state of {unit}", act, repeatable=True)

    async def start_unit(self, unit: str) -> Job:
        return await self._job("start", "StartUnit", unit)

    async def stop_unit(self, unit: str) -> Job:
        """Stop a unit. One that is not loaded cannot run: its job has ended already, ``done``."""
        try:
            return await self._job("stop", "StopUnit", unit)
        except SystemdError as error:
            if error.extensions.get("dbus_error") != _NO_SUCH_UNIT:
                raise
        job = Job(self, unit, "stop", "")
        job.end("done")
        return job

    async def restart_unit(self, unit: str) -> Job:
        return await self._job("restart", "RestartUnit", unit)

    async def reset_failed(self, unit: str) -> None:
        """Forget a failure, the start limit and the restart counter. Nothing to do for a unit not loaded."""
        try:
            await self._call(f"reset the failure of {unit}", "ResetFailedUnit", unit)
        except SystemdError as error:
            if error.extensions.get("dbus_error") != _NO_SUCH_UNIT:
                raise

    async def kill_unit(self, unit: str, signal: int, whom: str = "main") -> None:
        """Send a signal to ``main``, ``control`` or ``all`` processes of a unit."""
        await self._call(f"signal {unit}", "KillUnit", unit, whom, int(signal))

    async def daemon_reload(self) -> None:
        """Have systemd read unit files and drop-ins again; it answers when it has."""
        await self._call("reload systemd's units", "Reload", timeout=max(_RELOAD_SECONDS, self._call_timeout))

    async def enable(self, unit: str) -> None:
        """Have a unit started at boot, durable, as ``systemctl enable`` does; then reload."""
        await self._call(f"enable {unit}", "EnableUnitFiles", [unit], False, False)
        await self.daemon_reload()

    async def disable(self, unit: str) -> None:
        await self._call(f"disable {unit}", "DisableUnitFiles", [unit], False)
        await self.daemon_reload()

    async def start_transient_timer(self, name: str, after: float, description: str) -> None:
        """Have the service of the same name started ``after`` seconds from now, whatever becomes of us.

        Monotonic clock, accuracy 1 s. A timer of that name is replaced. The timer does not survive a
        reboot, and is gone after it has elapsed. ``stop_unit(name)`` takes it back.
        """
        if not name.endswith(".timer"):
            raise ValueError(f"{name!r} is not the name of a timer")
        before = await self.state(name)
        if before.load_state != "not-found":
            await (await self.stop_unit(name)).wait(self._call_timeout)
            await self.reset_failed(name)
        properties = [
            ("Description", pydbus.Variant("s", description)),
            ("TimersMonotonic", pydbus.Variant("a(st)", [("OnActiveSec", max(1, round(after * 1_000_000)))])),
            ("AccuracyUSec", pydbus.Variant("t", 1_000_000)),
            ("RemainAfterElapse", pydbus.Variant("b", False)),
        ]
        job = await self._job("start", "StartTransientUnit", name, properties, [])
        result = await job.wait(self._call_timeout)
        if result != "done":
            raise SystemdError(f"Cannot start the timer {name}: its job ended as {result}.", job=job.id)

    async def _call(self, what: str, method: str, *args: Any, timeout: float | None = None) -> None:
        await self._thread.run(what, lambda connection: connection.manager(method, *args), timeout=timeout)

    async def _job(self, verb: str, method: str, unit: str, *more: Any) -> Job:
        def act(connection: Connection) -> Job:
            # Signals are dispatched by this thread only, so JobRemoved cannot slip in between the
            # answer, which names the job, and the line that writes the job down.
            job = Job(self, unit, verb, connection.manager(method, unit, "replace", *more))
            self._jobs[job.path] = job
            return job

        return await self._thread.run(f"{verb} {unit}", act)

    def _job_removed(self, path: str, unit: str, result: str) -> None:
        job = self._jobs.pop(path, None)
        if job is not None and self._loop is not None and not self._loop.is_closed():
            job.end(result)
            self._loop.call_soon_threadsafe(job.announce)
