"""What the objects of org.freedesktop.systemd1 look like: methods, signals, properties and their values.

Part of ``fake_systemd1.py``. Names and types as in org.freedesktop.systemd1(5) of systemd 252.
"""

from __future__ import annotations

from typing import Any

from systemd1_manager import Job, Manager, Refused, TimerUnit, Unit
from systemd1_service import Service
from systemd1_unitfile import changed

MANAGER_PATH = "/org/freedesktop/systemd1"
PREFIX = "org.freedesktop.systemd1."
NO_JOB = (0, "/")

METHODS = {
    "GetUnit": ("s", "o"),
    "LoadUnit": ("s", "o"),
    "GetUnitFileState": ("s", "s"),
    "StartUnit": ("ss", "o"),
    "StopUnit": ("ss", "o"),
    "RestartUnit": ("ss", "o"),
    "StartTransientUnit": ("ssa(sv)a(sa(sv))", "o"),
    "KillUnit": ("ssi", ""),
    "ResetFailedUnit": ("s", ""),
    "ResetFailed": ("", ""),
    "Reload": ("", ""),
    "Subscribe": ("", ""),
    "Unsubscribe": ("", ""),
    "ListUnits": ("", "a(ssssssouso)"),
    "ListJobs": ("", "a(usssoo)"),
    "EnableUnitFiles": ("asbb", "ba(sss)"),
    "DisableUnitFiles": ("asb", "a(sss)"),
}
SIGNALS = {"JobNew": "uos", "JobRemoved": "uoss", "UnitNew": "so", "UnitRemoved": "so", "Reloading": "b"}
PROPERTIES = {
    "Manager": {"Version": "s"},
    "Unit": {
        **dict.fromkeys(["Id", "Description", "LoadState", "ActiveState", "SubState"], "s"),
        **dict.fromkeys(["FragmentPath", "UnitFileState"], "s"),
        **dict.fromkeys(["Names", "DropInPaths"], "as"),
        "InvocationID": "ay",
        "NeedDaemonReload": "b",
        "Transient": "b",
        "ActiveEnterTimestamp": "t",
        "Job": "(uo)",
    },
    "Service": {
        **dict.fromkeys(["Type", "Restart", "Result", "StatusText", "KillMode"], "s"),
        **dict.fromkeys(["MainPID", "ControlPID", "ExecMainPID", "NRestarts"], "u"),
        **dict.fromkeys(["StatusErrno", "ExecMainCode", "ExecMainStatus"], "i"),
        **dict.fromkeys(["RestartUSec", "TimeoutStartUSec", "TimeoutStopUSec", "WatchdogUSec"], "t"),
        **dict.fromkeys(["ExecStart", "ExecStartPre"], "a(sasbttttuii)"),
        "Environment": "as",
        "EnvironmentFiles": "a(sb)",
    },
    "Timer": {"Unit": "s", "Result": "s", "NextElapseUSecMonotonic": "t", "RemainAfterElapse": "b"},
}


STANDARD = {
    "org.freedesktop.DBus.Properties": {"Get": ("ss", "v"), "GetAll": ("s", "a{sv}")},
    "org.freedesktop.DBus.Introspectable": {"Introspect": ("", "s")},
}
"""Answered here and not by GDBus, which does not know the empty interface name in GetAll."""


def xml(*interfaces: str) -> str:
    """The introspection of an object with these interfaces of systemd."""
    parts = ["<node>"]
    for name, methods in STANDARD.items():
        parts.append(f'<interface name="{name}">{"".join(_method(*m) for m in methods.items())}</interface>')
    for interface in interfaces:
        parts.append(f'<interface name="{PREFIX}{interface}">')
        if interface == "Manager":
            parts += [_method(*method) for method in METHODS.items()]
            for name, sent in SIGNALS.items():
                arguments = [f'<arg type="{t}"/>' for t in split(sent)]
                parts.append(f'<signal name="{name}">{"".join(arguments)}</signal>')
        for name, kind in PROPERTIES[interface].items():
            parts.append(f'<property name="{name}" type="{kind}" access="read"/>')
        parts.append("</interface>")
    return "".join([*parts, "</node>"])


def _method(name: str, types: tuple[str, str]) -> str:
    arguments = [f'<arg direction="in" type="{t}"/>' for t in split(types[0])]
    arguments += [f'<arg direction="out" type="{t}"/>' for t in split(types[1])]
    return f'<method name="{name}">{"".join(arguments)}</method>'


def split(signature: str) -> list[str]:
    """The complete types a signature consists of."""
    found, depth, start = [], 0, 0
    for position, letter in enumerate(signature):
        depth += letter in "({"
        depth -= letter in ")}"
        if depth == 0 and letter != "a":
            found.append(signature[start : position + 1])
            start = position + 1
    return found


def unit_path(name: str) -> str:
    escaped = "".join(c if c.isalnum() and c.isascii() else f"_{ord(c):02x}" for c in name)
    return f"{MANAGER_PATH}/unit/{escaped}"


def job_path(job: Job) -> str:
    return f"{MANAGER_PATH}/job/{job.id}"


def values(manager: Manager, path: str, interface: str) -> dict[str, Any]:
    """All properties of one interface of an object."""
    if interface == "Manager":
        return {"Version": "252 (fake)"}
    unit = next((unit for unit in manager.units.values() if unit_path(unit.name) == path), None)
    if unit is None:
        raise Refused("org.freedesktop.DBus.Error.UnknownObject", f"Unknown object {path}")
    if interface == "Unit":
        return _unit_values(manager, unit)
    if isinstance(unit.runs, TimerUnit):
        remain = unit.file.yes("Timer", "RemainAfterElapse", True)
        found = (unit.runs.triggers, unit.runs.result, unit.runs.next_elapse, remain)
        return dict(zip(PROPERTIES["Timer"], found, strict=True))
    return _service_values(unit, unit.runs)


def _unit_values(manager: Manager, unit: Unit) -> dict[str, Any]:
    return {
        "Id": unit.name,
        "Names": [unit.name],
        "Description": unit.description,
        "LoadState": unit.file.load_state,
        "ActiveState": unit.runs.active_state,
        "SubState": unit.runs.sub_state,
        "FragmentPath": str(unit.file.fragment or ""),
        "DropInPaths": [str(path) for path in unit.file.drop_ins],
        "UnitFileState": file_state(manager, unit),
        "InvocationID": bytes.fromhex(unit.runs.invocation_id),
        "NeedDaemonReload": changed(unit.file),
        "Transient": unit.transient,
        "ActiveEnterTimestamp": unit.active_enter,
        "Job": (unit.job.id, job_path(unit.job)) if unit.job else NO_JOB,
    }


def file_state(manager: Manager, unit: Unit) -> str:
    if unit.transient:
        return "transient"
    if unit.file.fragment is None:
        return ""
    if unit.file.load_state == "masked":
        return "masked"
    if any(link.is_symlink() for d in manager.directories for link in d.glob(f"*.wants/{unit.name}")):
        return "enabled"
    return "disabled" if unit.file.words("Install", "WantedBy") else "static"


def _service_values(unit: Unit, service: Service) -> dict[str, Any]:
    def micro(seconds: float) -> int:
        return 2**64 - 1 if seconds in (0, float("inf")) else round(seconds * 1e6)

    def commands(key: str) -> list[tuple[Any, ...]]:
        return [(c.argv[0], list(c.argv), c.ignore_failure, 0, 0, 0, 0, 0, 0, 0) for c in unit.file.commands(key)]

    pid, code, status = service.exec_main
    return {
        "Type": unit.type,
        "Restart": unit.file.get("Service", "Restart", "no"),
        "Result": service.result,
        "StatusText": service.status_text,
        "KillMode": unit.file.get("Service", "KillMode", "control-group"),
        "MainPID": service.main_pid,
        "ControlPID": service.control.pid if service.control else 0,
        "ExecMainPID": pid,
        "NRestarts": service.n_restarts,
        "StatusErrno": service.status_errno,
        "ExecMainCode": code,
        "ExecMainStatus": status,
        "RestartUSec": round(unit.file.span("Service", "RestartSec", 0.1) * 1e6),
        "TimeoutStartUSec": micro(unit.file.span("Service", "TimeoutStartSec", 90)),
        "TimeoutStopUSec": micro(unit.file.span("Service", "TimeoutStopSec", 90)),
        "WatchdogUSec": round(unit.file.span("Service", "WatchdogSec", 0) * 1e6),
        "ExecStart": commands("ExecStart"),
        "ExecStartPre": commands("ExecStartPre"),
        "Environment": [f"{key}={value}" for key, value in unit.file.environment().items()],
        "EnvironmentFiles": unit.file.environment_files(),
    }
