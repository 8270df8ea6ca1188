"""This version of k3s converts its data."""

from __future__ import annotations

from k3s_ha_agent.k3s.version import migration_gate
from k3s_ha_agent.model import CheckResult, Kind
from k3s_ha_agent.preflight.results import About, known, passed, refused
from k3s_ha_agent.preflight.subject import Subject

NAME = "version"
FOR = frozenset({Kind.MIGRATE})
ABOUT = About(
    looks_at="`k3s --version` of the binary in the unit's command line",
    refuses="it is older than v1.22.2 (makes an empty etcd) or one of v1.30.13, v1.31.9, v1.32.5, v1.33.1 (crashes)",
    warns="",
    remedy="upgrade k3s, let it run once, then migrate",
    facts="M1, M3, ten facts 8",
)


def check(subject: Subject) -> CheckResult:
    version = known(subject.version)
    reason = migration_gate(version)
    if reason is not None:
        return refused(
            NAME,
            reason,
            "v1.22.2 or later, but not v1.30.13, v1.31.9, v1.32.5 or v1.33.1.",
            "Upgrade k3s, let it run once on SQLite, then migrate",
        )
    return passed(NAME, f"k3s {version} converts its data.")
