"""The restart in the window changes nothing but the datastore."""

from __future__ import annotations

from k3s_ha_agent.model import CheckResult, Kind
from k3s_ha_agent.preflight.results import About, known, passed, refused, warned
from k3s_ha_agent.preflight.subject import Subject

NAME = "pending-changes"
FOR = frozenset({Kind.MIGRATE, Kind.ROLLBACK})
ABOUT = About(
    looks_at="mtimes of the unit, its drop-ins, its environment files and k3s's configuration, and systemd's need of a "
    "daemon-reload",
    refuses="systemd wants a daemon-reload: it comes with the gate, and k3s would be started from a unit that no "
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
    if unit.need_daemon_reload:
        return refused(
            NAME,
            f"systemd still has the files of {unit.name} as it read them before they were changed.",
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
