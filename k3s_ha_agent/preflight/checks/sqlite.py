"""The SQLite database is sound."""

from __future__ import annotations

from k3s_ha_agent.model import CheckResult, Kind
from k3s_ha_agent.preflight.results import About, known, passed
from k3s_ha_agent.preflight.subject import Subject

NAME = "sqlite"
FOR = frozenset({Kind.MIGRATE})
ABOUT = About(
    looks_at="a copy of `state.db` with its WAL, made by SQLite's backup API: integrity check, table and columns",
    refuses="the copy cannot be made or is not sound; such damage is found by nobody before the conversion reads it",
    warns="",
    remedy="stop k3s, copy `state.db` with its `-wal` and `-shm` to a safe place, put a backup back or repair it "
    "with `sqlite3 state.db .recover`, then ask again",
    facts="M14, M15",
)


def check(subject: Subject) -> CheckResult:
    # A copy that could not be made or is not sound is Missing, with this check's name in ``see``.
    summary = known(subject.kine)
    return passed(NAME, f"A copy of state.db with its WAL passes the integrity check: {summary.rows} rows.")
