"""No ``state.db.migrated`` of an earlier conversion."""

from __future__ import annotations

from k3s_ha_agent.model import CheckResult, Datastore, Kind
from k3s_ha_agent.preflight.results import About, known, passed, refused
from k3s_ha_agent.preflight.subject import Subject

NAME = "stale-migrated"
FOR = frozenset({Kind.MIGRATE})
ABOUT = About(
    looks_at="`db/state.db.migrated`",
    refuses="it is there: k3s would overwrite it, and it may be the only copy of older data",
    warns="",
    remedy="look at what it holds, then `mv` it out of `server/db`",
    facts="M2, ten facts 4",
)


def check(subject: Subject) -> CheckResult:
    files = known(subject.files)
    if files.migrated and files.datastore is not Datastore.ETCD:
        return refused(
            NAME,
            f"{subject.layout.state_db_migrated} is there from an earlier conversion.",
            "A server/db without it: k3s would overwrite it without asking.",
            f"mkdir -p {subject.layout.quarantine}; mv {subject.layout.state_db_migrated} {subject.layout.quarantine}/",
        )
    return passed(NAME, "No state.db.migrated of an earlier conversion.")
