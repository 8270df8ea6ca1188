"""No remains of an etcd that was begun and not ended."""

from __future__ import annotations

from k3s_ha_agent.model import CheckResult, Kind
from k3s_ha_agent.preflight.results import About, known, passed, refused
from k3s_ha_agent.preflight.subject import Subject

NAME = "leftovers"
FOR = frozenset({Kind.MIGRATE})
ABOUT = About(
    looks_at="`db/tmp-etcd`, `db/etcd-tmp`, and a `db/etcd/member` without its `wal`",
    refuses="one of them is there: a start on etcd was cut short, and k3s would meet its remains",
    warns="",
    remedy="`mv` them out of `server/db`",
    facts="M2, Seen 17, ten facts 3",
)


def check(subject: Subject) -> CheckResult:
    files = known(subject.files)
    if files.leftovers:
        names = " ".join(str(path) for path in files.leftovers)
        return refused(
            NAME,
            f"Remains of an etcd that did not come up: {names}.",
            "A server/db in which no etcd was begun.",
            f"mkdir -p {subject.layout.quarantine}; mv {names} {subject.layout.quarantine}/",
        )
    return passed(NAME, "No temporary etcd directory and no etcd without its wal.")
