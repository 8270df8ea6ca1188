#!/usr/bin/python3
"""``systemctl`` for the rescue where PID 1 is ``fake_systemd1.py``: the few verbs the rescue uses.

Put into PATH under the name systemctl with FAKE_PRIVATE set; speaks D-Bus by GLib, none of the agent's code. It asks
the manager itself, not by way of a bus, as the real one does when root runs it (by /run/systemd/private; systemd's
``bus_connect_system_systemd``; tests/lab/test_agent_killed.py sees the real one do it).
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any

from gi.repository import Gio, GLib

ROOT, MANAGER = "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager"
_FLAGS = Gio.DBusConnectionFlags.AUTHENTICATION_CLIENT


class Bus:
    def __init__(self) -> None:
        self.connection = Gio.DBusConnection.new_for_address_sync(
            f"unix:path={os.environ['FAKE_PRIVATE']}", _FLAGS, None, None
        )

    def call(self, path: str, interface: str, method: str, arguments: GLib.Variant | None, seconds: float = 30) -> Any:
        answer = self.connection.call_sync(None, path, interface, method, arguments, None, 0, int(seconds * 1000), None)
        return answer.unpack()

    def manager(self, method: str, signature: str = "()", *arguments: object) -> Any:
        return self.call(ROOT, MANAGER, method, GLib.Variant(signature, arguments))

    def properties(self, unit: str, interface: str) -> dict[str, Any]:
        (path,) = self.manager("LoadUnit", "(s)", unit)
        arguments = GLib.Variant("(s)", (interface,))
        (found,) = self.call(path, "org.freedesktop.DBus.Properties", "GetAll", arguments)
        return dict(found)

    def job(self, method: str, unit: str, block: bool) -> None:
        """Ask for a job and wait until the unit has none."""
        self.manager(method, "(ss)", unit, "replace")
        while block and self.properties(unit, "org.freedesktop.systemd1.Unit")["Job"][0]:
            time.sleep(0.05)

    def well(self, unit: str) -> bool:
        """Whether a start that has ended went well."""
        if self.properties(unit, "org.freedesktop.systemd1.Unit")["ActiveState"] == "active":
            return True
        service = self.properties(unit, "org.freedesktop.systemd1.Service")
        return service["Type"] == "oneshot" and service["Result"] == "success"


def main(arguments: list[str]) -> int:
    bus = Bus()
    words = [a for a in arguments if not a.startswith("-")]
    options = dict(a.lstrip("-").partition("=")[::2] for a in arguments if a.startswith("-"))
    verb, unit, block = words[0], words[1] if len(words) > 1 else "", "no-block" not in options
    if verb == "daemon-reload":
        bus.manager("Reload")
    elif verb == "reset-failed":
        bus.manager("ResetFailedUnit", "(s)", unit)
    elif verb == "stop":
        bus.job("StopUnit", unit, block)
    elif verb in ("start", "restart"):
        bus.job(f"{verb.capitalize()}Unit", unit, block)
        if block and not bus.well(unit):
            print(f"Job for {unit} failed.", file=sys.stderr)
            return 1
    elif verb == "disable":
        bus.manager("DisableUnitFiles", "(asb)", [unit], False)
    elif verb == "kill":
        bus.manager("KillUnit", "(ssi)", unit, "main", 9)
    elif verb == "show":
        name = options["property"]
        interface = "Service" if name == "MainPID" else "Unit"
        print(bus.properties(unit, f"org.freedesktop.systemd1.{interface}")[name])
    else:
        print(f"systemctl (test): unknown verb {verb}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    try:
        status = main(sys.argv[1:])
    except GLib.Error as error:
        print(error.message, file=sys.stderr)
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # GDBus's own thread may wait for Python's lock while the interpreter ends, for ever
