"""This server was not removed from a cluster."""

from __future__ import annotations

from k3s_ha_agent.model import CheckResult, Kind
from k3s_ha_agent.preflight.results import About, known, passed, refused
from k3s_ha_agent.preflight.subject import Subject

NAME = "tombstone"
FOR = frozenset({Kind.MIGRATE, Kind.ROLLBACK})
ABOUT = About(
    looks_at="`db/etcd/tombstone`",
    refuses="it is there: this server was removed from an etcd cluster, and k3s would move `db/etcd` away at its "
    "next start, or refuse to start",
    warns="",
    remedy="`mv db/etcd` out of `server/db` once it is clear that its data is not wanted",
    facts="R6",
)


def check(subject: Subject) -> CheckResult:
    files = known(subject.files)
    if files.tombstone:
        return refused(
            NAME,
            f"{subject.layout.tombstone} says that this server was removed from an etcd cluster.",
            "No tombstone: k3s moves db/etcd away when it finds one, or does not start.",
            f"k3s kubectl get nodes; then mkdir -p {subject.layout.quarantine}; "
            f"mv {subject.layout.etcd} {subject.layout.quarantine}/",
        )
    return passed(NAME, "No tombstone of a removed etcd member.")
