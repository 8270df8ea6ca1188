"""k3s is on SQLite, and on nothing else."""

from __future__ import annotations

from k3s_ha_agent.model import CheckResult, Datastore, Kind
from k3s_ha_agent.preflight.results import About, known, passed, refused
from k3s_ha_agent.preflight.subject import Subject

NAME = "datastore"
FOR = frozenset({Kind.MIGRATE})
ABOUT = About(
    looks_at="`db/etcd/member/wal` and `db/state.db`, by stat",
    refuses="the server is on etcd already; a copy to etcd began and did not end (both are there); neither is there",
    warns="",
    remedy="on etcd: nothing to do. Half copied: `systemctl stop k3s`, `mv db/etcd` out of `server/db`, "
    "`systemctl start k3s`, look at the data, then migrate again",
    facts="M2, ten facts 1 to 5",
)
NEEDS = "state.db under its own name, and no db/etcd/member/wal."


def check(subject: Subject) -> CheckResult:
    files = known(subject.files)
    unit, layout = subject.settings.unit, subject.layout
    match files.datastore:
        case Datastore.SQLITE:
            return passed(NAME, files.datastore_detail)
        case Datastore.ETCD:
            return refused(
                NAME,
                f"This server is on etcd already. {files.datastore_detail}",
                NEEDS,
                "Nothing to do: k3s-ha-agentctl status",
            )
        case Datastore.HALF_COPIED:
            aside = layout.quarantine / "half-copied-etcd"
            return refused(
                NAME,
                files.datastore_detail,
                NEEDS,
                f"systemctl stop {unit}; mkdir -p {layout.quarantine}; mv {layout.etcd} {aside}; "
                f"systemctl start {unit}; then compare what is there with what should be",
            )
        case _:
            return refused(
                NAME,
                files.datastore_detail,
                NEEDS,
                f"systemctl cat {unit} | grep -E 'data-dir|datastore'; a server that has not run yet is started once",
            )
