#!/usr/bin/python3
"""org.freedesktop.systemd1 on a private bus, that really runs services.

    python fake_systemd1.py --bus unix:path=/tmp/x/bus --units /tmp/x/systemd [--units DIR]…
        [--private SOCKET] [--log FILE] [--control SOCKET] [--runtime DIR] [--boot]

Reads unit files and drop-ins from the directories, runs services with Type=notify, Restart=, timers,
jobs and signals as systemd 252 does, so far as the agent and its tests can notice. It connects again
when the bus was away; ``--private`` is a socket where it can be asked without one, as ``/run/systemd/private``
of the real one. ``--log`` gets JSON lines of all output; ``--control`` is a socket that takes one
JSON request per connection and switches faults (see ``Faults``). ``--boot`` starts enabled units first.

Ends on SIGTERM or SIGINT and takes every process it started with it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import socket
import sys
import tempfile
import traceback
from pathlib import Path
from types import TracebackType
from typing import Any

from gi.repository import GLib
from systemd1_bus import Bus, Faults
from systemd1_manager import Manager
from systemd1_processes import Log
from systemd1_service import Service


class Control:
    """Faults and questions from the tests, also while the program is off the bus."""

    def __init__(self, path: str, manager: Manager, bus: Bus, faults: Faults) -> None:
        self._manager, self._bus, self._faults = manager, bus, faults
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        self._socket.bind(path)
        self._socket.listen(16)
        GLib.io_add_watch(self._socket.fileno(), GLib.PRIORITY_DEFAULT, GLib.IOCondition.IN, self._accept)

    def _accept(self, _fd: int, _condition: object) -> bool:
        connection, _ = self._socket.accept()
        with connection:
            connection.settimeout(5)
            try:
                with connection.makefile("rw") as stream:
                    request = json.loads(stream.readline())
                    stream.write(json.dumps(self.answer(**request)) + "\n")
            except (OSError, ValueError, TypeError, KeyError) as error:
                print(f"control: {error!r}", file=sys.stderr)
        return True

    def answer(self, do: str, **request: Any) -> dict[str, Any]:
        if do in ("hang", "lose-answer", "refuse"):
            self._faults.add(do, request["method"], request.get("count", 1), request.get("error", ""))
        elif do == "lose-job-removed":
            self._faults.lost_signals = request.get("count", 1)
        elif do == "job-result":
            self._manager.forced_results.setdefault(request["unit"], []).append(request["result"])
        elif do == "leave-bus":
            self._bus.leave()
        elif do == "join-bus":
            self._bus.stay()
        elif do == "clear":
            self._faults.clear()
            self._manager.forced_results.clear()
        elif do == "processes":
            return {"processes": self._manager.processes.of_unit(request["unit"])}
        elif do == "state":
            return {"connected": self._bus.connected, "subscribers": sorted(self._bus.subscribers), **self._units()}
        else:
            raise ValueError(f"no such request: {do}")
        return {}

    def _units(self) -> dict[str, Any]:
        return {
            "units": {
                unit.name: {
                    "active_state": unit.runs.active_state,
                    "sub_state": unit.runs.sub_state,
                    "result": unit.runs.result,
                    "main_pid": unit.runs.main_pid if isinstance(unit.runs, Service) else 0,
                    "n_restarts": unit.runs.n_restarts if isinstance(unit.runs, Service) else 0,
                    "job": unit.job.id if unit.job else 0,
                }
                for unit in self._manager.units.values()
            }
        }


def _bug(kind: type[BaseException], error: BaseException, at: TracebackType | None) -> None:
    """A callback failed: a test that goes on with a broken systemd proves nothing. The kernel ends the services."""
    traceback.print_exception(kind, error, at)
    os._exit(70)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--bus", required=True, metavar="ADDRESS")
    parser.add_argument("--units", required=True, action="append", type=Path, metavar="DIR")
    parser.add_argument("--private", metavar="SOCKET")
    parser.add_argument("--log", metavar="FILE")
    parser.add_argument("--control", metavar="SOCKET")
    parser.add_argument("--runtime", type=Path, metavar="DIR", help="default: one of its own, removed at the end")
    parser.add_argument("--boot", action="store_true")
    options = parser.parse_args()
    sys.excepthook = _bug
    runtime = options.runtime or Path(tempfile.mkdtemp(prefix="fake-systemd1-"))
    loop = GLib.MainLoop()
    for number in (signal.SIGTERM, signal.SIGINT):
        GLib.unix_signal_add(GLib.PRIORITY_HIGH, number, loop.quit)
    manager = None
    try:
        manager = Manager(options.units, runtime, Log(options.log))
        faults = Faults()
        bus = Bus(options.bus, manager, faults, options.private)
        manager.signals = bus
        bus.stay()
        if options.control:
            Control(options.control, manager, bus, faults)
        if options.boot:
            manager.boot()
        loop.run()
    finally:
        if manager is not None:
            manager.processes.kill_everything()
        shutil.rmtree(runtime, ignore_errors=True)


if __name__ == "__main__":
    main()
