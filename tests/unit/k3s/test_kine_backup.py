"""Backing up kine databases, at rest and in use, without a trace on them."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from k3s_ha_agent.errors import KineError
from k3s_ha_agent.k3s import kine
from k3s_ha_agent.k3s.sqlite_files import ChangedMeanwhile, opened_unchanged
from tests.unit.k3s.databases import execute, make, traces

ROOT = Path(__file__).parents[3]
WAL_ONLY = 58  # live keys of the recording whose last row is in the WAL only


def rows_of(path: Path) -> list[tuple[object, ...]]:
    with contextlib.closing(sqlite3.connect(path)) as database:
        return database.execute("SELECT * FROM kine ORDER BY id").fetchall()


class Writer:
    """A process that has the database open and writes to it."""

    def __init__(self, path: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("kine_writer.py"), path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._answer() == "ready"

    def _answer(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def say(self, word: str) -> str:
        assert self.process.stdin is not None
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()
        return self._answer()


@contextlib.contextmanager
def writing(path: Path) -> Iterator[Writer]:
    writer = Writer(path)
    try:
        yield writer
    finally:
        writer.process.kill()
        writer.process.communicate()


def test_backup_at_rest_leaves_no_trace(recorded_db: Path, tmp_path: Path) -> None:
    target = tmp_path / "backup" / "state.db"
    target.parent.mkdir()
    before = traces(recorded_db)
    assert set(before) == {"state.db", "state.db-wal", "state.db-shm"}
    steps: list[tuple[int, int]] = []
    kine.backup(recorded_db, target, progress=lambda done, total: steps.append((done, total)))
    assert traces(recorded_db) == before
    assert steps[-1][0] == steps[-1][1] > 0
    assert [p.name for p in target.parent.iterdir()] == ["state.db"]
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    kine.check(target)
    assert rows_of(target) == rows_of(recorded_db)  # this one does leave traces, on a copy of the recording
    with contextlib.closing(sqlite3.connect(target)) as database:
        assert database.execute("PRAGMA journal_mode").fetchone() == ("delete",)


@pytest.mark.parametrize("missing", [["state.db-shm"], ["state.db-wal"], ["state.db-shm", "state.db-wal"]])
def test_backup_with_files_missing_beside_it(recorded_db: Path, tmp_path: Path, missing: list[str]) -> None:
    for name in missing:
        (recorded_db.parent / name).unlink()
    before = traces(recorded_db)
    target = tmp_path / "backup.db"
    kine.backup(recorded_db, target)
    assert traces(recorded_db) == before
    assert kine.summarize(target).live_rows == (340 - WAL_ONLY if "state.db-wal" in missing else 340)
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["backup.db"]
    assert {p.name for p in tmp_path.iterdir() if p.is_dir()} == {"server"}


def test_reading_in_place_is_refused_without_shm(recorded_db: Path) -> None:
    recorded_db.with_name("state.db-shm").unlink()
    before = traces(recorded_db)
    with pytest.raises(KineError, match="Back it up first"):
        kine.summarize(recorded_db)
    assert traces(recorded_db) == before


def test_backup_with_an_empty_wal(recorded_db: Path, tmp_path: Path) -> None:
    """kine 0.8.1 and later truncate it when they open the database (k3s-facts, "Seen" 17)."""
    with contextlib.closing(sqlite3.connect(recorded_db)) as keeper:
        assert keeper.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0
        saved = {p.name: p.read_bytes() for p in recorded_db.parent.iterdir()}
    for name, content in saved.items():
        recorded_db.with_name(name).write_bytes(content)
    assert recorded_db.with_name("state.db-wal").stat().st_size == 0
    before = traces(recorded_db)
    kine.backup(recorded_db, tmp_path / "backup.db")
    assert traces(recorded_db) == before
    assert kine.summarize(tmp_path / "backup.db").live_rows == 340


def test_backup_while_another_process_has_it_open(recorded_db: Path, tmp_path: Path) -> None:
    """Nothing changes in the three files, the writer's rows in its WAL are there, and it writes on."""
    with writing(recorded_db) as writer:
        for _ in range(20):
            assert writer.say("write") == "written"
        before = traces(recorded_db)
        assert before["state.db-wal"][2] > 0
        for attempt in range(2):
            kine.backup(recorded_db, tmp_path / "backup.db")
            assert traces(recorded_db) == before, attempt
            assert kine.summarize(tmp_path / "backup.db").live_rows == 340 + 21
        assert kine.digests(recorded_db) == kine.digests(tmp_path / "backup.db")
        assert traces(recorded_db) == before
        assert writer.say("write") == "written"
        kine.backup(recorded_db, tmp_path / "later.db")
        assert kine.summarize(tmp_path / "later.db").live_rows == 340 + 22
        assert writer.say("stop") == "22"
    assert rows_of(recorded_db)[-1][1] == "/registry/writer/000022"


def test_backup_while_another_process_writes_without_a_pause(recorded_db: Path, tmp_path: Path) -> None:
    """The source is only ever opened for reading, and the backup is of one moment."""
    program = (
        "import sys; from pathlib import Path; from k3s_ha_agent.k3s import kine\n"
        "for n in range(5): kine.backup(Path(sys.argv[1]), Path(sys.argv[2]) / f'{n}.db')\n"
    )
    log = tmp_path / "trace"
    with writing(recorded_db) as writer:
        assert writer.say("run") == "running"
        subprocess.run(
            ["strace", "-f", "-y", "-o", log, "-e", "trace=%file,write,pwrite64,pwritev,ftruncate,mmap",
             sys.executable, "-c", program, recorded_db, tmp_path],
            check=True, timeout=300, cwd=ROOT, env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        )  # fmt: skip
        count = int(writer.say("stop"))
    counts = []
    for n in range(5):
        kine.check(tmp_path / f"{n}.db")
        written = [row.key for row in kine.live_rows(tmp_path / f"{n}.db", "/registry/writer/")]
        assert written == [b"/registry/writer/%06d" % i for i in range(1, len(written) + 1)], "no gaps"
        counts.append(len(written))
    assert counts == sorted(counts)
    assert 0 < counts[0] < counts[-1] <= count, "it wrote all the while"

    mine = [line for line in log.read_text().splitlines() if str(recorded_db) in line and "execve" not in line]
    opened = [line for line in mine if "openat(" in line]
    assert any("state.db-shm" in line for line in opened)
    for line in mine:
        assert not re.search(r"\b(unlink|rename|truncate|chmod|chown|utime)", line), line
        assert not re.search(r"\b(write|pwrite64|pwritev|ftruncate)\(", line), line
        assert "state.db-shm" not in line or "openat" not in line or "O_RDONLY" in line, line
        assert 'state.db"' not in line or "openat" not in line or "O_RDONLY" in line, line
        assert "MAP_SHARED" not in line or "PROT_WRITE" not in line, line


def test_backup_of_a_busy_server_ends(recorded_db: Path, tmp_path: Path) -> None:
    """Rows written between the steps neither start it anew nor get into it."""
    with contextlib.closing(sqlite3.connect(recorded_db, isolation_level=None)) as k3s:
        k3s.execute("UPDATE kine SET value = zeroblob(100000) WHERE id < 300")  # several steps' worth
        expected = k3s.execute("SELECT COUNT(*) FROM kine").fetchone()[0]
        calls = 0

        def write(_done: int, _total: int) -> None:
            nonlocal calls
            calls += 1
            assert calls < 1000, "it begins anew with every write"
            k3s.execute("INSERT INTO kine(name, created, deleted, value) VALUES ('/registry/late', 1, 0, x'00')")

        kine.backup(recorded_db, tmp_path / "backup.db", progress=write)
    assert calls > 3
    assert kine.summarize(tmp_path / "backup.db").rows == expected


def test_cancelled_backup_leaves_the_target_as_it_was(recorded_db: Path, tmp_path: Path) -> None:
    directory = tmp_path / "target"
    directory.mkdir()
    target = directory / "backup.db"
    target.write_bytes(b"an earlier one")
    cancel = threading.Event()
    before = traces(recorded_db)
    with pytest.raises(KineError, match="cancelled"):
        kine.backup(recorded_db, target, cancel=cancel, progress=lambda *_: cancel.set())
    assert traces(recorded_db) == before
    assert [(p.name, p.read_bytes()) for p in directory.iterdir()] == [("backup.db", b"an earlier one")]


def test_backup_replaces_what_was_there_with_its_wal(recorded_db: Path, tmp_path: Path) -> None:
    """A stale WAL beside a restored file silently yields other data ("ten facts" 6)."""
    target = tmp_path / "target" / "state.db"
    shutil.copytree(recorded_db.parent, target.parent)
    execute(recorded_db, ("DELETE FROM kine WHERE id > 300", ()))
    kine.backup(recorded_db, target)
    assert [p.name for p in target.parent.iterdir()] == ["state.db"]
    assert kine.digests(target) == kine.digests(recorded_db)


def test_backup_that_cannot_be_made(recorded_db: Path, tmp_path: Path) -> None:
    with pytest.raises(KineError, match="There is no database"):
        kine.backup(tmp_path / "missing.db", tmp_path / "backup.db")
    with pytest.raises(KineError, match="onto itself"):
        kine.backup(recorded_db, recorded_db.parent / "." / "state.db")
    with pytest.raises(KineError, match=r"failed: .*No such file"):
        kine.backup(recorded_db, tmp_path / "missing" / "backup.db")
    (tmp_path / "noise.db").write_bytes(b"noise" * 4096)
    with pytest.raises(KineError, match="not a database"):
        kine.backup(tmp_path / "noise.db", tmp_path / "backup.db")
    assert not (tmp_path / "backup.db").exists()


def test_database_that_changes_while_read_without_locks(tmp_path: Path) -> None:
    path = make(tmp_path / "state.db", [("/registry/a", b"1")])
    with pytest.raises(ChangedMeanwhile):
        with opened_unchanged(path) as connection:
            assert connection.execute("SELECT COUNT(*) FROM kine").fetchone() == (1,)
            execute(path, ("DELETE FROM kine", ()))
    changes = iter(range(2))

    def disturb(_done: int, _total: int) -> None:
        if (n := next(changes, None)) is not None:
            execute(
                path, ("INSERT INTO kine(name, created, deleted, value) VALUES (?, 1, 0, ?)", (f"/registry/b{n}", b""))
            )

    kine.backup(path, tmp_path / "backup.db", progress=disturb)
    assert kine.summarize(tmp_path / "backup.db").live_rows == 2, "taken again until it was of one moment"
