"""Reading kine databases: the recorded one and made ones."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shutil
import sqlite3
import tracemalloc
from pathlib import Path

import pytest

from k3s_ha_agent.errors import KineError
from k3s_ha_agent.k3s import kine
from k3s_ha_agent.k3s.digest import Digester, prefix_of
from tests.unit.k3s.databases import SCHEMA, execute, make, traces

WAL_ONLY = 58  # live keys of the recording whose last row is in the WAL only


# --- the recorded database ---


def test_schema_is_the_recorded_one(recorded_db: Path, tmp_path: Path) -> None:
    def schema(path: Path) -> list[str]:
        with contextlib.closing(sqlite3.connect(path)) as database:
            found = database.execute("SELECT sql FROM sqlite_master WHERE name LIKE '%kine%' ORDER BY name")
            return [re.sub(r"\s+", "", sql) for (sql,) in found]

    made = make(tmp_path / "made.db", [])
    assert schema(made) == schema(recorded_db)
    assert "kine_name_id_index" in SCHEMA


def test_summary_of_the_recording(recorded_db: Path) -> None:
    before = traces(recorded_db)
    found = kine.summarize(recorded_db)
    assert (found.rows, found.live_rows, found.max_id) == (443, 340, 443)
    assert found.bootstrap_keys == ("/bootstrap/d39c08e28906",)
    assert found.compact_revision == 0
    assert found.leased_rows == 21
    assert traces(recorded_db) == before
    with contextlib.closing(sqlite3.connect(recorded_db)) as database:
        # The count of k3s-facts, and sizes, said in another way.
        live = database.execute(
            "SELECT k.name, LENGTH(k.name) + LENGTH(k.value) size, k.lease FROM kine k JOIN"
            " (SELECT MAX(id) id FROM kine WHERE name >= '/registry/' AND name < '/registry0' GROUP BY name) m"
            " USING (id) WHERE k.deleted = 0 ORDER BY size DESC"
        ).fetchall()
    assert found.live_rows == len(live)
    assert found.live_bytes == sum(size for _, size, _ in live)
    assert (found.biggest_key, found.biggest_bytes) == live[0][:2]
    assert found.leased_rows == sum(1 for _, _, lease in live if lease)


def test_rows_that_are_only_in_the_wal(recorded_db: Path, tmp_path: Path) -> None:
    """The main file alone is sound and lacks them; a backup has them."""
    alone = tmp_path / "alone" / "state.db"
    alone.parent.mkdir()
    shutil.copyfile(recorded_db, alone)
    kine.check(alone)
    target = tmp_path / "backup.db"
    kine.backup(recorded_db, target)
    whole, without = kine.summarize(target), kine.summarize(alone)
    assert (whole.live_rows, without.live_rows) == (340, 340 - WAL_ONLY)
    assert kine.digests(target).total != kine.digests(alone).total
    names = {row.key for row in kine.live_rows(target)} - {row.key for row in kine.live_rows(alone)}
    assert len(names) == WAL_ONLY


def test_live_rows_of_the_recording(recorded_db: Path, recordings: Path) -> None:
    rows = list(kine.live_rows(recorded_db))
    assert [row.key for row in rows] == sorted(row.key for row in rows)
    by_key = {row.key: row for row in rows}
    assert by_key[b"/registry/health"].value == b'{"health":"true"}'
    assert all(0 < row.create_revision <= row.mod_revision <= 443 for row in rows)
    assert [row.key for row in kine.live_rows(recorded_db, "/bootstrap/")] == [b"/bootstrap/d39c08e28906"]
    assert list(kine.live_rows(recorded_db, "/nothing/")) == []


# --- check ---


def test_check_finds_corruption(recorded_db: Path, tmp_path: Path) -> None:
    target = tmp_path / "backup.db"
    kine.backup(recorded_db, target)
    data = bytearray(target.read_bytes())
    page = 4096
    for start in range(page * 20, page * 40, page):
        data[start : start + 64] = bytes(64)
    target.write_bytes(data)
    with pytest.raises(KineError, match=r"corrupt|malformed"):
        kine.check(target)


def test_check_of_other_databases(tmp_path: Path) -> None:
    (tmp_path / "empty.db").touch()
    with pytest.raises(KineError, match="no table kine"):
        kine.check(tmp_path / "empty.db")
    execute(tmp_path / "other.db", ("CREATE TABLE kine (id INTEGER, name TEXT)", ()))
    with pytest.raises(KineError, match=r"lacks .*value"):
        kine.check(tmp_path / "other.db")
    for function in (kine.summarize, kine.digests, lambda p: list(kine.live_rows(p))):
        with pytest.raises(KineError, match="no such table"):
            function(tmp_path / "empty.db")
    kine.check(make(tmp_path / "good.db", []))


# --- live rows and digests ---


def test_last_row_of_each_living_key(tmp_path: Path) -> None:
    path = make(tmp_path / "state.db", [("compact_rev_key", b""), ("/registry/a", b"1"), ("/registry/b", b"1")])
    insert = (
        "INSERT INTO kine(name, created, deleted, create_revision, prev_revision, lease, value) VALUES (?,?,?,?,?,?,?)"
    )
    execute(
        path,
        (insert, ("/registry/a", 0, 0, 2, 2, 60, b"2")),
        (insert, ("/registry/b", 0, 1, 3, 3, 0, b"1")),  # deleted
        (insert, ("/registry/c", 1, 0, 0, 0, 0, None)),
        (insert, ("/registry/c", 0, 1, 6, 6, 0, b"x")),
        (insert, ("/registry/c", 1, 0, 0, 7, 0, b"")),  # deleted and made anew
        (insert, ("/registry0", 1, 0, 0, 0, 0, b"outside")),
        (insert, ("/registry", 1, 0, 0, 0, 0, b"outside")),
        ("UPDATE kine SET prev_revision = 4 WHERE name = 'compact_rev_key'", ()),
    )
    assert list(kine.live_rows(path)) == [
        kine.Row(b"/registry/a", b"2", mod_revision=4, create_revision=2, lease=60),
        kine.Row(b"/registry/c", b"", mod_revision=8, create_revision=8, lease=0),
    ]
    found = kine.summarize(path)
    assert (found.live_rows, found.leased_rows, found.compact_revision, found.rows) == (2, 1, 4, 10)


def test_order_is_that_of_bytes(tmp_path: Path) -> None:
    """As etcd orders: not by language, not by UTF-16."""
    names = ["/registry/" + n for n in ("a", "B", "a/b", "a-b", "a0", "é", "z", "～", "😀", "\x7f", "10", "9")]
    path = make(tmp_path / "state.db", [(name, b"v") for name in names])
    assert [row.key for row in kine.live_rows(path)] == sorted(name.encode() for name in names)


def test_memory_is_flat(tmp_path: Path) -> None:
    value = bytes(20_000)
    path = make(tmp_path / "state.db", ((f"/registry/pods/{n:05d}", value) for n in range(2000)))
    tracemalloc.start()
    try:
        found = kine.digests(path)
        kine.summarize(path)
        kine.backup(path, tmp_path / "backup.db")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found.count == 2000
    assert peak < 1_000_000, f"{peak} bytes for {2000 * len(value)}"


def test_unfinished_reading_lets_go(recorded_db: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with contextlib.closing(kine.live_rows(recorded_db)) as rows:
        assert len(list(itertools.islice(rows, 3))) == 3
        assert len(os.listdir("/proc/self/fd")) > before
    assert len(os.listdir("/proc/self/fd")) == before


def test_digests_tell_everything_apart(tmp_path: Path) -> None:
    rows = [("/registry/pods/a", b"1"), ("/registry/pods/b", b"2"), ("/registry/health", b"3")]

    def digests(*changed: tuple[str, bytes]) -> object:
        path = tmp_path / "x.db"
        path.unlink(missing_ok=True)
        return kine.digests(make(path, changed))

    whole = digests(*rows)
    assert digests(*reversed(rows)) == whole, "ids do not matter"
    others = [
        digests(*rows[:2]),
        digests(*rows, ("/registry/pods/c", b"")),
        digests(("/registry/pods/a", b"1x"), *rows[1:]),
        digests(("/registry/pods/A", b"1"), *rows[1:]),
        digests(("/registry/pods/a1", b""), *rows[1:]),
        digests(("/registry/pods/a", b"2"), ("/registry/pods/b", b"1"), rows[2]),
    ]
    totals = [d.total for d in [whole, *others]]  # type: ignore[attr-defined]
    assert len(set(totals)) == len(totals)


def test_digests_per_prefix(recorded_db: Path) -> None:
    found = kine.digests(recorded_db)
    assert found.count == 340 == sum(count for count, _ in found.per_prefix.values())
    assert found.per_prefix["/registry/configmaps/"][0] == sum(
        1 for _ in kine.live_rows(recorded_db, "/registry/configmaps/")
    )
    part = kine.digests(recorded_db, "/registry/configmaps/")
    assert (
        part.per_prefix["/registry/configmaps/"]
        == found.per_prefix["/registry/configmaps/"]
        == (part.count, part.total)
    )
    assert found.per_prefix["/registry/health"][0] == 1


def test_digester_wants_order() -> None:
    digester = Digester()
    digester.add(b"b", b"")
    for key in (b"b", b"a"):
        with pytest.raises(ValueError, match="byte order"):
            digester.add(key, b"")


def test_prefix_of() -> None:
    assert prefix_of(b"/registry/configmaps/shop/a") == b"/registry/configmaps/"
    assert prefix_of(b"/registry/health") == b"/registry/health"
    assert prefix_of(b"/registry/apiextensions.k8s.io/x/y") == b"/registry/apiextensions.k8s.io/"
    assert prefix_of(b"compact_rev_key") == b"compact_rev_key"
