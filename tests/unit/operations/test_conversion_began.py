"""When SQLite is left as it is on the way back: only when nothing but k3s itself has touched the datastore."""

from __future__ import annotations

from pathlib import Path

import pytest

from k3s_ha_agent.k3s.layout import Layout
from k3s_ha_agent.operations.datastore_files import conversion_began, retire_etcd


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    found = Layout(tmp_path / "k3s")
    found.db.mkdir(parents=True)
    found.state_db.write_bytes(b"rows")
    return found


def test_k3s_went_on_with_its_sqlite(layout: Layout, tmp_path: Path) -> None:
    inode = layout.state_db.stat().st_ino
    layout.state_db.write_bytes(b"more rows")
    layout.state_db_wal.write_bytes(b"rows in the WAL")
    layout.etcd.mkdir()
    layout.etcd_name.write_text("n1-1234abcd")  # later releases write it on SQLite too ("ten facts" 2)
    assert not conversion_began(layout, inode, tmp_path / "quarantine")


def test_etcd_was_begun(layout: Layout, tmp_path: Path) -> None:
    inode, quarantine = layout.state_db.stat().st_ino, tmp_path / "quarantine"
    layout.etcd_member_wal.mkdir(parents=True)
    assert conversion_began(layout, inode, quarantine)
    retire_etcd(layout, quarantine)  # and the undo was cut off right after that
    assert conversion_began(layout, inode, quarantine)


def test_etcd_was_begun_twice(layout: Layout, tmp_path: Path) -> None:
    """The second one has a number in the quarantine; the first was no etcd."""
    inode, quarantine = layout.state_db.stat().st_ino, tmp_path / "quarantine"
    layout.etcd.mkdir()
    retire_etcd(layout, quarantine)
    layout.etcd_member_wal.mkdir(parents=True)
    retire_etcd(layout, quarantine)
    assert conversion_began(layout, inode, quarantine)


def test_it_is_another_file(layout: Layout, tmp_path: Path) -> None:
    inode = layout.state_db.stat().st_ino
    other = tmp_path / "other"
    other.write_bytes(b"rows")
    other.rename(layout.state_db)
    assert conversion_began(layout, inode, tmp_path / "quarantine")


def test_it_was_renamed(layout: Layout, tmp_path: Path) -> None:
    inode = layout.state_db.stat().st_ino
    layout.state_db.rename(layout.state_db_migrated)
    assert conversion_began(layout, inode, tmp_path / "quarantine")
