"""The restart in the window changes nothing but the datastore."""

from __future__ import annotations

from k3s_ha_agent.model import CheckResult, Kind
from k3s_ha_agent.preflight.results import About, known, passed, refused, warned
from k3s_ha_agent.preflight.subject import Subject

NAME = "pending-changes"
FOR = frozenset({Kind.MIGRATE, Kind.ROLLBACK})
ABOUT = About(
    looks_at="mtimes of the unit, its drop-ins, its environment files and k3s's configuration, and whether systemd has "
    "read the unit and its drop-ins as they are",
    refuses="systemd has not: a daemon-reload comes with the gate, and k3s would be started from a unit that no "
    "check has seen",
    warns="one is newer than k3s's last start: the restart in the window would bring it into force as well",
    remedy="`systemctl daemon-reload; systemctl restart k3s`, see that it works, then ask again",
    facts="M16, 4.4",
)


def check(subject: Subject) -> CheckResult:
    unit = known(subject.unit)
    files = known(subject.files)
    started = unit.active_enter_timestamp
    changed = [str(path) for path, mtime in files.changed_at.items() if started and mtime > started]
    read = {path.name for path in unit.drop_in_paths}
    unread = [str(path) for path in files.unit_drop_ins if path.name not in read]
    if unit.need_daemon_reload or unread:
        # systemd itself does not notice a drop-in directory that is new.
        which = f" ({', '.join(unread)} came later)" if unread else ""
        return refused(
            NAME,
            f"systemd still has the files of {unit.name} as it read them before they were changed{which}.",
            "systemd and the files at one: what systemd says of the unit is what the other checks go by.",
            f"systemctl daemon-reload; systemctl restart {unit.name}; then k3s-ha-agentctl preflight",
        )
    if changed:
        return warned(
            NAME,
            f"Changed since k3s was started: {', '.join(changed)}.",
            "A restart that changes nothing but the datastore.",
            f"systemctl daemon-reload; systemctl restart {unit.name}; then k3s-ha-agentctl preflight",
        )
    return passed(NAME, "Nothing k3s reads has changed since it was started.")
