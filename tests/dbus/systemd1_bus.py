"""The D-Bus side: the name, the objects, the methods, signals to subscribers, faults.

Part of ``fake_systemd1.py``.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
from pathlib import Path
from typing import Any

from gi.repository import Gio, GLib
from systemd1_manager import Job, Manager, Refused, Unit
from systemd1_schema import (
    MANAGER_PATH,
    METHODS,
    PREFIX,
    PROPERTIES,
    SIGNALS,
    file_state,
    job_path,
    split,
    unit_path,
    values,
    xml,
)
from systemd1_service import Service


class Faults:
    """What goes wrong next. A count below 0 means for ever."""

    def __init__(self) -> None:
        self._methods: dict[str, tuple[str, int, str]] = {}
        self.lost_signals = 0

    def add(self, kind: str, method: str, count: int, error: str) -> None:
        self._methods[method] = (kind, count, error)

    def clear(self) -> None:
        self._methods.clear()
        self.lost_signals = 0

    def take(self, method: str) -> tuple[str, str]:
        """The fault for this call: ``hang`` (not done, no answer), ``lose-answer`` (done, no answer), ``refuse``."""
        kind, count, error = self._methods.get(method, ("", 0, ""))
        if count == 0:
            return "", ""
        self._methods[method] = (kind, count - 1, error)
        return kind, error

    def lose_signal(self) -> bool:
        if self.lost_signals:
            self.lost_signals -= 1
            return True
        return False


class Bus:
    """Owns the name while it may; implements ``systemd1_manager.Signals``."""

    def __init__(self, address: str, manager: Manager, faults: Faults, private: str | None = None) -> None:
        self._address, self._manager, self._faults = address, manager, faults
        self._connection: Any = None
        self._peers: list[Any] = []
        self._server = self._listen(private) if private else None
        self._registered: dict[str, list[tuple[Any, int]]] = {}
        self._objects: dict[str, tuple[str, ...]] = {}
        self._wanted = False
        self.subscribers: set[str] = set()

    @property
    def connected(self) -> bool:
        return self._connection is not None and not self._connection.is_closed()

    def stay(self) -> None:
        """Be on the bus from now on; tried again every 50 ms while there is none."""
        if not self._wanted:
            self._wanted = True
            if self._keep():
                GLib.timeout_add(50, self._keep)

    def leave(self) -> None:
        self._wanted = False
        if self.connected:
            self._connection.close_sync(None)
        self._connection = None

    def _keep(self) -> bool:
        if self._wanted and not self.connected:
            try:
                self._connect()
            except GLib.Error as error:
                self._connection = None
                print(f"no bus yet: {error.message}", file=sys.stderr)
        return self._wanted

    def _connect(self) -> None:
        flags = Gio.DBusConnectionFlags.AUTHENTICATION_CLIENT | Gio.DBusConnectionFlags.MESSAGE_BUS_CONNECTION
        self._connection = Gio.DBusConnection.new_for_address_sync(self._address, flags, None, None)
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._connection))  # never freed: k3s_ha_agent/host/bus.py
        self._connection.set_exit_on_close(False)
        self.subscribers.clear()
        self._register_everything(self._connection)
        self._connection.signal_subscribe(
            "org.freedesktop.DBus",
            "org.freedesktop.DBus",
            "NameOwnerChanged",
            "/org/freedesktop/DBus",
            None,
            Gio.DBusSignalFlags.NONE,
            self._owner_changed,
        )
        arguments = GLib.Variant("(su)", (PREFIX[:-1], 4))  # DBUS_NAME_FLAG_DO_NOT_QUEUE
        bus = "org.freedesktop.DBus"
        answer = self._connection.call_sync(
            bus, "/org/freedesktop/DBus", bus, "RequestName", arguments, GLib.VariantType.new("(u)"), 0, 5000, None
        )
        if answer.unpack()[0] != 1:
            raise SystemExit(f"{PREFIX[:-1]} is taken on {self._address}")

    # --- without a bus ------------------------------------------------------------------------

    def _listen(self, path: str) -> Any:
        """The socket systemctl of root uses, with or without a bus: /run/systemd/private of the real one."""
        Path(path).unlink(missing_ok=True)
        server = Gio.DBusServer.new_sync(f"unix:path={path}", Gio.DBusServerFlags.NONE, Gio.dbus_generate_guid())
        server.connect("new-connection", self._peer_came)
        server.start()
        return server

    def _peer_came(self, _server: Any, peer: Any) -> bool:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(peer))  # as above
        self._peers.append(peer)
        peer.connect("closed", self._peer_went)
        self._register_everything(peer)
        return True

    def _peer_went(self, peer: Any, *_: object) -> None:
        self._peers.remove(peer)
        for numbers in self._registered.values():
            numbers[:] = [(connection, number) for connection, number in numbers if connection is not peer]
        with contextlib.suppress(GLib.Error):
            peer.get_stream().close(None)  # it is never freed

    def _owner_changed(self, _connection: Any, _sender: str, _path: str, _iface: str, _signal: str, args: Any) -> None:
        name, _, new = args.unpack()
        if not new:
            self.subscribers.discard(name)

    # --- objects ------------------------------------------------------------------------------

    def _register_everything(self, connection: Any) -> None:
        self._register(connection, MANAGER_PATH, "Manager")
        for unit in self._manager.units.values():
            self._register_unit(connection, unit)

    def _register_unit(self, connection: Any, unit: Unit) -> None:
        kind = "Service" if isinstance(unit.runs, Service) else "Timer"
        self._register(connection, unit_path(unit.name), "Unit", kind)

    def _register(self, connection: Any, path: str, *interfaces: str) -> None:
        self._objects[path] = interfaces
        self._registered.setdefault(path, []).extend(
            (connection, connection.register_object(path, interface, self._called, None, None))
            for interface in Gio.DBusNodeInfo.new_for_xml(xml(*interfaces)).interfaces
        )

    def _called(
        self, _con: Any, sender: str, path: str, interface: str, method: str, args: Any, invocation: Any
    ) -> None:
        kind, error = self._faults.take(method)
        try:
            if kind == "hang":
                return
            if kind == "refuse":
                raise Refused(error or "org.freedesktop.DBus.Error.Failed", "refused by a test")
            answer = self._answer(sender, path, interface, method, args.unpack(), args)
        except Refused as refused:
            invocation.return_dbus_error(refused.name, str(refused))
            return
        except Exception as bug:
            invocation.return_dbus_error("org.freedesktop.DBus.Error.Failed", f"bug in fake_systemd1: {bug!r}")
            raise
        if kind != "lose-answer":
            invocation.return_value(answer)

    def _answer(self, sender: str, path: str, interface: str, method: str, args: tuple[Any, ...], raw: Any) -> Any:
        if method == "Introspect":
            return GLib.Variant("(s)", (xml(*self._objects[path]),))
        if method in ("Get", "GetAll"):
            asked = [args[0].removeprefix(PREFIX)] if args[0] else self._objects[path]
            found = {
                name: GLib.Variant(PROPERTIES[short][name], value)
                for short in asked
                for name, value in values(self._manager, path, short).items()
            }
            return GLib.Variant("(v)", (found[args[1]],)) if method == "Get" else GLib.Variant("(a{sv})", (found,))
        if method in ("Subscribe", "Unsubscribe"):
            if (sender in self.subscribers) == (method == "Subscribe"):
                raise Refused("AlreadySubscribed" if method == "Subscribe" else "NotSubscribed", "subscription")
            (self.subscribers.add if method == "Subscribe" else self.subscribers.discard)(sender)
            return None
        result = getattr(self, f"_do_{method}")(*args) if method != "StartTransientUnit" else self._transient(args, raw)
        signature = METHODS[method][1]
        if not signature:
            return None
        return GLib.Variant(f"({signature})", result if len(split(signature)) > 1 else (result,))

    # --- methods of the Manager -------------------------------------------------------------------

    def _do_GetUnit(self, name: str) -> str:
        return unit_path(self._manager.loaded(name).name)

    def _do_LoadUnit(self, name: str) -> str:
        return unit_path(self._manager.unit(name).name)

    def _do_StartUnit(self, name: str, mode: str) -> str:
        return job_path(self._manager.add_job(self._manager.unit(name), "start", mode))

    def _do_StopUnit(self, name: str, mode: str) -> str:
        return job_path(self._manager.add_job(self._manager.loaded(name), "stop", mode))

    def _do_RestartUnit(self, name: str, mode: str) -> str:
        return job_path(self._manager.add_job(self._manager.unit(name), "restart", mode))

    def _do_KillUnit(self, name: str, whom: str, number: int) -> None:
        if not self._manager.loaded(name).runs.kill(whom, number) and whom != "all":
            raise Refused("NoSuchProcess", f"No {whom} process to kill")

    def _do_ResetFailedUnit(self, name: str) -> None:
        self._manager.loaded(name).runs.reset_failed()

    def _do_ResetFailed(self) -> None:
        for unit in list(self._manager.units.values()):
            unit.runs.reset_failed()

    def _do_Reload(self) -> None:
        self._emit("Reloading", True)
        self._manager.reload()
        self._emit("Reloading", False)

    def _do_ListUnits(self) -> list[tuple[Any, ...]]:
        return [
            (u.name, u.description, u.file.load_state, u.runs.active_state, u.runs.sub_state, "", unit_path(u.name))
            + ((u.job.id, u.job.type, job_path(u.job)) if u.job else (0, "", "/"))
            for u in self._manager.units.values()
        ]

    def _do_ListJobs(self) -> list[tuple[Any, ...]]:
        jobs = [unit.job for unit in self._manager.units.values() if unit.job]
        return [
            (j.id, j.unit.name, j.type, "running" if j.running else "waiting", job_path(j), unit_path(j.unit.name))
            for j in jobs
        ]

    def _do_GetUnitFileState(self, name: str) -> str:
        return file_state(self._manager, self._manager.unit(name))

    def _do_EnableUnitFiles(self, names: list[str], runtime: bool, force: bool) -> tuple[bool, list[tuple[str, ...]]]:
        changes = []
        for name in names:
            unit = self._manager.unit(name)
            if unit.file.fragment is None:
                raise Refused("NoSuchUnit", f"Unit file {name} does not exist.")
            for target in unit.file.words("Install", "WantedBy"):
                link = self._manager.unit_directory / f"{target}.wants" / name
                link.parent.mkdir(exist_ok=True)
                if not link.is_symlink():
                    link.symlink_to(unit.file.fragment)
                    changes.append(("symlink", str(link), str(unit.file.fragment)))
        return True, changes

    def _do_DisableUnitFiles(self, names: list[str], runtime: bool) -> list[tuple[str, ...]]:
        links = [link for name in names for link in self._manager.unit_directory.glob(f"*.wants/{name}")]
        for link in links:
            link.unlink()
        return [("unlink", str(link), "") for link in links]

    def _transient(self, args: tuple[Any, ...], raw: Any) -> str:
        name, _, properties, _ = args
        lines = {"Unit": ["[Unit]"], "Timer": ["[Timer]"]}
        for key, value in properties:
            if key == "TimersMonotonic":
                lines["Timer"] += [f"{base}={usec}us" for base, usec in value]
            elif key == "AccuracyUSec":
                lines["Timer"].append(f"AccuracySec={value}us")
            elif key in ("RemainAfterElapse", "Unit") and name.endswith(".timer"):
                lines["Timer"].append(f"{key}={value}")
            elif key == "Description":
                lines["Unit"].append(f"Description={value}")
            else:
                raise Refused("org.freedesktop.DBus.Error.PropertyReadOnly", f"Cannot set property {key}")
        return job_path(self._manager.start_transient(name, "\n".join(lines["Unit"] + lines["Timer"]) + "\n"))

    # --- signals, to those who asked for them -----------------------------------------------------

    def job_new(self, job: Job) -> None:
        self._emit("JobNew", job.id, job_path(job), job.unit.name)

    def job_removed(self, job: Job, result: str) -> None:
        if not self._faults.lose_signal():
            self._emit("JobRemoved", job.id, job_path(job), job.unit.name, result)

    def unit_new(self, unit: Unit) -> None:
        for connection in [self._connection] * self.connected + self._peers:
            self._register_unit(connection, unit)
        self._emit("UnitNew", unit.name, unit_path(unit.name))

    def unit_gone(self, unit: Unit) -> None:
        for connection, number in self._registered.pop(unit_path(unit.name), []):
            if not connection.is_closed():
                connection.unregister_object(number)
        self._emit("UnitRemoved", unit.name, unit_path(unit.name))

    def unit_changed(self, unit: Unit) -> None:
        """PropertiesChanged is not sent: whoever watches must read (the agent does)."""

    def _emit(self, name: str, *args: Any) -> None:
        if self.subscribers and self.connected:
            variant = GLib.Variant(f"({SIGNALS[name]})", args)
            self._connection.emit_signal(None, MANAGER_PATH, PREFIX + "Manager", name, variant)
