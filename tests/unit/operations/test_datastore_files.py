"""The moves that decide which datastore k3s starts on, on real files; also interrupted between any two of them."""

from __future__ import annotations

import sqlite3
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from k3s_ha_agent import durable
from k3s_ha_agent.errors import StepFailed
from k3s_ha_agent.k3s.layout import Layout
from k3s_ha_agent.operations import gate
from k3s_ha_agent.operations.datastore_files import (
    put_back_etcd,
    put_back_sqlite,
    retire_etcd,
    retire_sqlite,
    sha256_of,
)


def database(path: Path, value: str) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE kine (name TEXT, value TEXT)")
    connection.execute("INSERT INTO kine VALUES ('/registry/a', ?)", (value,))
    connection.commit()
    connection.close()


def value_of(path: Path) -> str:
    connection = sqlite3.connect(path)
    try:
        return str(connection.execute("SELECT value FROM kine").fetchone()[0])
    finally:
        connection.close()


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout(tmp_path / "k3s")
    layout.db.mkdir(parents=True)
    return layout


def half_copied(layout: Layout) -> None:
    """What a killed copy leaves: etcd's wal, and SQLite under its old name with a WAL beside it."""
    layout.etcd_member_wal.mkdir(parents=True)
    database(layout.state_db, "newer than sealed")
    layout.state_db_wal.write_bytes(b"a stale wal")
    layout.state_db_shm.write_bytes(b"shm")


def gate_passes(layout: Layout, tmp_path: Path) -> bool:
    """Run the gate's own shell line, taken from the drop-in as systemd would read it."""
    text = gate.text(layout, "op").replace("\\\n", " ")
    line = next(line for line in text.splitlines() if line.startswith("ExecStartPre="))
    command = line.removeprefix("ExecStartPre=/bin/sh -c '").removesuffix("'")
    return subprocess.run(["sh", "-c", command], capture_output=True).returncode == 0


class Interrupted(BaseException):
    pass


def interrupting(at: int) -> Callable[[], None]:
    """Counts durable renames and removals, and stops before the given one."""
    count = 0

    def step() -> None:
        nonlocal count
        count += 1
        if count == at:
            raise Interrupted

    return step


def test_sealed_copy_is_put_back_without_wal(layout: Layout, tmp_path: Path) -> None:
    sealed, quarantine = tmp_path / "sealed.db", tmp_path / "quarantine"
    database(sealed, "sealed")
    half_copied(layout)
    put_back_sqlite(layout, sealed, sha256_of(sealed), quarantine)
    assert sha256_of(layout.state_db) == sha256_of(sealed)
    assert value_of(layout.state_db) == "sealed"
    assert not layout.etcd.exists()
    assert (quarantine / "etcd/member/wal").is_dir()
    assert (quarantine / "state.db-wal").read_bytes() == b"a stale wal"


def test_put_back_twice_is_put_back_once(layout: Layout, tmp_path: Path) -> None:
    sealed, quarantine = tmp_path / "sealed.db", tmp_path / "quarantine"
    database(sealed, "sealed")
    half_copied(layout)
    put_back_sqlite(layout, sealed, sha256_of(sealed), quarantine)
    inode = layout.state_db.stat().st_ino
    put_back_sqlite(layout, sealed, sha256_of(sealed), quarantine)
    assert layout.state_db.stat().st_ino == inode


def test_damaged_sealed_copy_replaces_nothing(layout: Layout, tmp_path: Path) -> None:
    sealed = tmp_path / "sealed.db"
    database(sealed, "sealed")
    digest = sha256_of(sealed)
    sealed.write_bytes(sealed.read_bytes()[:-1] + b"!")
    half_copied(layout)
    with pytest.raises(StepFailed, match="SHA-256"):
        put_back_sqlite(layout, sealed, digest, tmp_path / "quarantine")
    assert value_of(layout.state_db) == "newer than sealed"
    assert layout.etcd_member_wal.is_dir()


def test_interrupted_between_any_two_moves(layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever it stops, what the gate lets pass is whole; and a second run ends on the sealed data."""
    rename = durable.rename
    sealed = tmp_path / "sealed.db"
    database(sealed, "sealed")
    interruptions = 0
    for at in range(1, 30):
        place = Layout(tmp_path / f"k3s{at}")
        place.db.mkdir(parents=True)
        half_copied(place)
        quarantine = tmp_path / f"quarantine{at}"
        step = interrupting(at)
        # The outside world is the power supply: it fails before the n-th rename reaches the disk.
        monkeypatch.setattr(durable, "rename", lambda source, target, step=step: (step(), rename(source, target)))
        try:
            put_back_sqlite(place, sealed, sha256_of(sealed), quarantine)
        except Interrupted:
            interruptions += 1
            if gate_passes(place, tmp_path):
                whole = sha256_of(place.state_db) == sha256_of(sealed) or place.state_db_wal.exists()
                assert whole, f"interrupted before rename {at}: the gate lets k3s start without its WAL"
            monkeypatch.setattr(durable, "rename", rename)
            put_back_sqlite(place, sealed, sha256_of(sealed), quarantine)
        else:
            break
        assert value_of(place.state_db) == "sealed"
        assert not place.state_db_wal.exists() and not place.etcd.exists()
    assert interruptions == 5, "etcd, state.db, wal, shm, and the new state.db"


def test_etcd_goes_and_comes_back_whole(layout: Layout, tmp_path: Path) -> None:
    layout.etcd_member_wal.mkdir(parents=True)
    (layout.etcd_member_wal / "0.wal").write_bytes(b"entries")
    inode = layout.etcd.stat().st_ino
    quarantine = tmp_path / "quarantine"
    retire_etcd(layout, quarantine)
    assert not layout.etcd.exists()
    database(layout.state_db, "pre-image")
    put_back_etcd(layout, quarantine)
    assert layout.etcd.stat().st_ino == inode
    assert not layout.state_db.exists()
    put_back_etcd(layout, quarantine)
    assert layout.etcd.stat().st_ino == inode


def test_another_etcd_is_not_overwritten(layout: Layout, tmp_path: Path) -> None:
    layout.etcd_member_wal.mkdir(parents=True)
    retire_etcd(layout, tmp_path / "quarantine")
    layout.etcd_member_wal.mkdir(parents=True)
    with pytest.raises(StepFailed, match="another etcd"):
        put_back_etcd(layout, tmp_path / "quarantine")


@pytest.mark.parametrize(
    ("wal", "state", "passes"), [(True, True, False), (False, False, False), (True, False, True), (False, True, True)]
)
def test_gate_passes_only_with_exactly_one(
    layout: Layout, tmp_path: Path, wal: bool, state: bool, passes: bool
) -> None:
    if wal:
        layout.etcd_member_wal.mkdir(parents=True)
    if state:
        layout.state_db.touch()
    assert gate_passes(layout, tmp_path) is passes


def test_retire_sqlite_takes_state_db_first(layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    half_copied(layout)
    rename, order = durable.rename, []
    monkeypatch.setattr(durable, "rename", lambda s, t: (order.append(s.name), rename(s, t)))
    retire_sqlite(layout, tmp_path / "quarantine")
    assert order == ["state.db", "state.db-wal", "state.db-shm"]
