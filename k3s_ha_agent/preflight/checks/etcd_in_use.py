"""There is an etcd to come back from."""

from __future__ import annotations

from k3s_ha_agent.model import CheckResult, Datastore, Kind
from k3s_ha_agent.preflight.results import About, known, passed, refused
from k3s_ha_agent.preflight.subject import Subject

NAME = "etcd-in-use"
FOR = frozenset({Kind.ROLLBACK})
ABOUT = About(
    looks_at="`db/etcd/member/wal` and `db/state.db`, by stat",
    refuses="the server is not on etcd, or `state.db` stands beside an etcd in use",
    warns="",
    remedy="on SQLite: nothing to do. Both there: `mv db/state.db*` out of `server/db` once it is known which is the "
    "datastore",
    facts="R1, R4, ten facts 1",
)


def check(subject: Subject) -> CheckResult:
    files = known(subject.files)
    if files.datastore is not Datastore.ETCD:
        return refused(
            NAME,
            files.datastore_detail,
            "k3s on etcd, with no state.db in server/db.",
            "k3s-ha-agentctl status; k3s-ha-agentctl operations",
        )
    return passed(NAME, files.datastore_detail)
