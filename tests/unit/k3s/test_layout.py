"""The verdict on the datastore rests on ``member/wal`` and the name of ``state.db`` alone."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from k3s_ha_agent.k3s.layout import Layout, datastore, etcd_initialized
from k3s_ha_agent.model import Datastore


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    made = Layout(tmp_path / "k3s")
    made.db.mkdir(parents=True)
    return made


@pytest.mark.parametrize(
    ("there", "verdict", "names"),
    [
        ((), Datastore.NONE, "Neither"),
        (("state.db",), Datastore.SQLITE, "state.db exists"),
        (("state.db", "state.db-wal", "state.db-shm"), Datastore.SQLITE, "state.db exists"),
        # from 2023-09 to 2026-03 a SQLite server has these too
        (("state.db", "etcd/name", "etcd/config"), Datastore.SQLITE, "state.db exists"),
        (("state.db", "etcd/member/snap/"), Datastore.SQLITE, "state.db exists"),
        (("state.db", "etcd/member/wal/"), Datastore.HALF_COPIED, "did not end"),
        (("state.db", "state.db.migrated", "etcd/member/wal/"), Datastore.HALF_COPIED, "did not end"),
        (("etcd/member/wal/",), Datastore.ETCD, "does not."),
        (("state.db.migrated", "state.db-wal", "etcd/member/wal/"), Datastore.ETCD, "state.db.migrated"),
        (("etcd/name",), Datastore.NONE, "Neither"),
        (("state.db.migrated", "state.db-wal"), Datastore.NONE, "empty datastore"),
        (("state.db", "state.db.migrated"), Datastore.SQLITE, "state.db exists"),
        (("etcd/member/wal",), Datastore.HALF_COPIED, "not a directory"),
    ],
)
def test_verdict(layout: Layout, there: tuple[str, ...], verdict: Datastore, names: str) -> None:
    for name in there:
        path = layout.db / name
        if name.endswith("/"):
            path.mkdir(parents=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    found, sentence = datastore(layout)
    assert found is verdict
    assert names in sentence
    assert etcd_initialized(layout) == ("etcd/member/wal/" in there)


def test_no_data_dir_at_all(tmp_path: Path) -> None:
    assert datastore(Layout(tmp_path / "nothing"))[0] is Datastore.NONE


def test_not_knowing_is_not_none(layout: Layout) -> None:
    """A path that cannot be looked at raises instead of counting as absent."""
    layout.etcd.symlink_to(layout.etcd)  # ELOOP
    with pytest.raises(OSError, match="symbolic links"):
        datastore(layout)


def test_only_stat(layout: Layout) -> None:
    """Asking opens no file of k3s: closing one would drop SQLite's locks in this process."""
    layout.state_db.touch()
    program = (
        "import sys; from pathlib import Path; from k3s_ha_agent.k3s.layout import *; "
        "print('BEGIN', flush=True); print(datastore(Layout(Path(sys.argv[1]))), flush=True)"
    )
    log = layout.data_dir / "trace"
    subprocess.run(
        [
            "strace",
            "-f",
            "-o",
            log,
            "-e",
            "trace=open,openat,write",
            "/usr/bin/python3",
            "-c",
            program,
            layout.data_dir,
        ],
        check=True,
        timeout=120,
        cwd=Path(__file__).parents[3],
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        stdout=subprocess.DEVNULL,
    )
    after = log.read_text().split('"BEGIN', 1)[1]
    assert "sqlite" in after, "the verdict was printed"
    assert f"{layout.db}" not in "".join(line for line in after.splitlines() if "open" in line)


def test_leftovers(layout: Layout) -> None:
    assert layout.leftovers() == ()
    for name in ("tmp-etcd", "etcd-tmp", "etcd-old-1700000000", "etcd-backup-1700000001", "etcd"):
        (layout.db / name).mkdir()
    assert layout.leftovers() == (layout.db / "tmp-etcd", layout.db / "etcd-tmp")
    assert layout.set_aside() == (layout.db / "etcd-backup-1700000001", layout.db / "etcd-old-1700000000")


def test_paths_are_those_recorded(recordings: Path) -> None:
    layout = Layout(Path("/var/lib/rancher/k3s"))
    listed = {line.split()[-1] for line in (recordings / "listing-stopped.txt").read_text().splitlines()}
    assert {str(p) for p in (layout.state_db, layout.state_db_wal, layout.state_db_shm)} <= listed
    listing = (recordings / "listing-migrated.txt").read_text().splitlines()
    migrated = {fields[3] for fields in (line.split() for line in listing) if len(fields) == 4}
    for path in (
        layout.etcd_member_wal,
        layout.etcd_config,
        layout.etcd_name,
        layout.state_db_migrated,
        layout.state_db_wal,
        layout.snapshots,
    ):
        assert str(path.relative_to(layout.db)) in migrated
    assert str(layout.state_db.relative_to(layout.db)) not in migrated


def test_quarantine_is_outside_what_k3s_reads() -> None:
    layout = Layout(Path("/data"))
    assert layout.quarantine.is_relative_to(layout.data_dir)
    assert not layout.quarantine.is_relative_to(layout.server)
