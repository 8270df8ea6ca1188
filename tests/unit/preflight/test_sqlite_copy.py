"""The copy that is looked at and thrown away."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from pathlib import Path

import pytest

from k3s_ha_agent.k3s import kine
from k3s_ha_agent.k3s.kine import KineSummary
from k3s_ha_agent.preflight import sqlite_copy
from k3s_ha_agent.preflight.results import Missing
from tests.unit.preflight.subjects import recorded_sqlite


@pytest.fixture
def state_db(tmp_path: Path) -> Path:
    return recorded_sqlite(tmp_path / "db")


async def test_no_room_is_said_before_anything_is_copied(state_db: Path, tmp_path: Path) -> None:
    found = await sqlite_copy.summarize(state_db, 1 << 60, tmp_path / "state")
    assert isinstance(found, Missing) and found.see == "disk"
    assert list((tmp_path / "state").iterdir()) == []


async def test_what_a_killed_agent_left_is_removed(state_db: Path, tmp_path: Path) -> None:
    left = tmp_path / "state/preflight"
    left.mkdir(parents=True)
    (left / "state.db").write_text("half a copy")
    found = await sqlite_copy.summarize(state_db, 0, tmp_path / "state")
    assert isinstance(found, KineSummary) and found.live_rows == 340
    assert not left.exists()


async def test_the_workspace_is_private(tmp_path: Path) -> None:
    async with sqlite_copy.workspace(tmp_path) as directory:
        assert directory.stat().st_mode & 0o777 == 0o700
        assert (tmp_path / "preflight.lock").stat().st_mode & 0o777 == 0o600
    assert not directory.exists()


async def test_a_database_that_is_none_is_missing_with_a_reason(tmp_path: Path) -> None:
    (tmp_path / "state.db").write_bytes(b"not a database at all" * 1000)
    found = await sqlite_copy.summarize(tmp_path / "state.db", 0, tmp_path / "state")
    assert isinstance(found, Missing) and found.see == "sqlite" and found.reason


async def test_a_table_that_is_not_kines_is_missing_with_a_reason(tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "state.db")) as connection:
        connection.execute("CREATE TABLE other (id INTEGER)")
    found = await sqlite_copy.summarize(tmp_path / "state.db", 0, tmp_path / "state")
    assert isinstance(found, Missing) and found.see == "sqlite" and "kine" in found.reason


async def test_damage_that_reading_does_not_meet_is_found_all_the_same(state_db: Path, tmp_path: Path) -> None:
    """One letter in one place of several: the table and its indexes differ, and every row can be read."""
    copy = tmp_path / "one-file.db"
    kine.backup(state_db, copy)
    data = copy.read_bytes()
    copy.write_bytes(data.replace(b"/registry/ranges/serviceips", b"/registry/ranges/serviceipz", 1))
    assert kine.summarize(copy).live_rows > 0
    found = await sqlite_copy.summarize(copy, 0, tmp_path / "state")
    assert isinstance(found, Missing) and found.see == "sqlite" and "index" in found.reason


async def test_cancelled_in_the_middle_it_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute(
            "CREATE TABLE kine (id INTEGER PRIMARY KEY, name TEXT, created INTEGER, deleted INTEGER,"
            " create_revision INTEGER, prev_revision INTEGER, lease INTEGER, value BLOB, old_value BLOB)"
        )
        connection.execute(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200)"
            " INSERT INTO kine SELECT i, '/registry/x/' || i, 1, 0, 0, 0, 0, zeroblob(1000000), NULL FROM n"
        )
    state = tmp_path / "state"
    task = asyncio.create_task(sqlite_copy.summarize(path, 0, state))
    while not list(state.glob("preflight/.state.db*")) and not task.done():
        await asyncio.sleep(0.001)
    assert not task.done(), "the copy was over before it could be cancelled"
    task.cancel()
    largest = 0
    while not task.done():
        largest = max([largest, *(p.stat().st_size for p in state.glob("preflight/.state.db.tmp"))])
        await asyncio.sleep(0.001)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert largest < path.stat().st_size, "the copy was made to its end"
    assert [p.name for p in state.iterdir()] == ["preflight.lock"]
