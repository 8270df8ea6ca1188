"""No cluster reset is asked for or half done."""

from __future__ import annotations

from k3s_ha_agent.model import CheckResult, Kind
from k3s_ha_agent.preflight.results import About, known, passed, refused
from k3s_ha_agent.preflight.sayings import on_anywhere, said_by, set_anywhere, take_out
from k3s_ha_agent.preflight.subject import Subject

NAME = "cluster-reset"
FOR = frozenset({Kind.MIGRATE, Kind.ROLLBACK, Kind.JOIN})
ABOUT = About(
    looks_at="`cluster-reset`, `cluster-reset-restore-path` and `K3S_CLUSTER_RESET` in all six places, and "
    "`db/reset-flag`",
    refuses="one is set, or the flag file is there: k3s would reset its membership, or crash-loop until the flag "
    "is gone",
    warns="",
    remedy="take it out; a reset is run once as a command and never configured",
    facts="R7",
)


def check(subject: Subject) -> CheckResult:
    configuration = known(subject.configuration)
    files = known(subject.files)
    found = on_anywhere(configuration, "cluster-reset") + set_anywhere(configuration, "cluster-reset-restore-path")
    if found:
        return refused(
            NAME,
            f"A cluster reset is configured: {said_by(found)}.",
            "No cluster-reset anywhere: it belongs on a command line that is run once.",
            take_out(found, subject.settings.unit, restart=subject.kind is not Kind.JOIN),
        )
    if files.reset_flag:
        return refused(
            NAME,
            f"{subject.layout.reset_flag} is there: a reset was made and no normal start has followed.",
            "No reset-flag: k3s removes it at its first normal start.",
            f"systemctl restart {subject.settings.unit}; if it stays: rm {subject.layout.reset_flag}",
        )
    return passed(NAME, "No cluster reset is asked for, and no reset-flag is there.")
