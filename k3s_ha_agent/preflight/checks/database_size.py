"""The database is not so full of history that k3s takes very long to open it."""

from __future__ import annotations

from k3s_ha_agent.model import CheckResult, Kind
from k3s_ha_agent.preflight import sizes
from k3s_ha_agent.preflight.results import About, known, passed, size, warned
from k3s_ha_agent.preflight.subject import Subject

NAME = "database-size"
FOR = frozenset({Kind.MIGRATE})
LARGE = sizes.GIB
FACTOR = 4
ABOUT = About(
    looks_at="`state.db` and its WAL against the bytes of the live keys",
    refuses="",
    warns=f"they have more than {size(LARGE)} and more than {FACTOR} times the live bytes: history that was never "
    "compacted, which every start of k3s has to go through",
    remedy="`k3s kubectl get events -A | wc -l`; let k3s compact for some hours, or stop it and "
    "`sqlite3 state.db 'PRAGMA wal_checkpoint(TRUNCATE); VACUUM'`",
    facts="M13",
)


def check(subject: Subject) -> CheckResult:
    files = known(subject.files)
    summary = known(subject.kine)
    found = f"state.db and its WAL have {size(files.sqlite_bytes)}, the live keys {size(summary.live_bytes)}."
    if files.sqlite_bytes > max(LARGE, FACTOR * summary.live_bytes):
        return warned(
            NAME,
            found,
            f"Not much more than the live keys need; {summary.rows} rows for {summary.live_rows} keys make "
            "starts long.",
            f"systemctl stop {subject.settings.unit}; "
            f"sqlite3 {subject.layout.state_db} 'PRAGMA wal_checkpoint(TRUNCATE); VACUUM'; "
            f"systemctl start {subject.settings.unit}",
        )
    return passed(NAME, found)
