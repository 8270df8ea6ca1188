"""A kine datastore in SQLite: the table of the recording, rows as kine writes them.

Every change is a new row whose id is the revision. create: created=1, no revisions; update:
create_revision and prev_revision of the row before; delete: deleted=1. Leases are TTLs in
seconds in the lease column (seen in the recording: masterleases 15, events 3660).
"""

from __future__ import annotations

import contextlib
import os
import socket
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

from .store import Changed, Exists, Item, Missing

SCHEMA = """
CREATE TABLE IF NOT EXISTS kine
\t\t\t(
\t\t\t\tid INTEGER PRIMARY KEY AUTOINCREMENT,
\t\t\t\tname INTEGER,
\t\t\t\tcreated INTEGER,
\t\t\t\tdeleted INTEGER,
\t\t\t\tcreate_revision INTEGER,
\t\t\t\tprev_revision INTEGER,
\t\t\t\tlease INTEGER,
\t\t\t\tvalue BLOB,
\t\t\t\told_value BLOB
\t\t\t);
CREATE INDEX IF NOT EXISTS kine_name_index ON kine (name);
CREATE INDEX IF NOT EXISTS kine_name_id_index ON kine (name,id);
CREATE INDEX IF NOT EXISTS kine_id_deleted_index ON kine (id,deleted);
CREATE INDEX IF NOT EXISTS kine_prev_revision_index ON kine (prev_revision);
CREATE UNIQUE INDEX IF NOT EXISTS kine_name_prev_revision_uindex ON kine (name, prev_revision);
"""
"""The SQL of the 1.22.2 recording's sqlite_master."""

_ROW = "id, name, created, deleted, create_revision, lease, value"
_INSERT = (
    "INSERT INTO kine (name, created, deleted, create_revision, prev_revision, lease, value, old_value)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)
_LIVE = f"""
SELECT {_ROW} FROM kine
WHERE id IN (SELECT MAX(id) FROM kine WHERE name >= ? AND name < ? GROUP BY name) AND deleted = 0
"""


class Kine:
    """One open database. All calls may come from any thread."""

    name = "sqlite"

    def __init__(self, path: Path, *, truncate_wal: bool) -> None:
        self._lock = threading.RLock()
        self.path = path
        fresh = not path.exists()
        # The busy time-out of kine's DSN (4.1): 30 s. isolation_level None: BEGIN IMMEDIATE by hand.
        self._database = sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)
        if fresh:
            path.chmod(0o644)
        self._database.execute("PRAGMA journal_mode=WAL").fetchone()
        if truncate_wal:
            self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if self._database.execute("SELECT 1 FROM sqlite_master WHERE name = 'kine'").fetchone() is None:
            self._database.executescript(SCHEMA)
        if not self._database.execute("SELECT 1 FROM kine WHERE name = 'compact_rev_key'").fetchone():
            self._database.execute(_INSERT, ("compact_rev_key", 1, 0, 0, 0, 0, b"", None))
            self._database.execute(_INSERT, ("/registry/health", 1, 0, 0, 0, 0, b'{"health":"true"}', None))

    def close(self) -> None:
        """Close: SQLite checkpoints and removes -wal and -shm, unless state.db was renamed."""
        with self._lock:
            self._database.close()

    def revision(self) -> int:
        with self._lock:
            row = self._database.execute("SELECT seq FROM sqlite_sequence WHERE name = 'kine'").fetchone()
        return int(row[0]) if row else 0

    def get(self, key: str) -> Item | None:
        row = self._last(key)
        return None if row is None or row[3] else _item(row)

    def below(self, prefix: str) -> tuple[int, list[Item]]:
        with self._lock:
            rows = self._database.execute(_LIVE + " ORDER BY name", (prefix, _end(prefix))).fetchall()
            return self.revision(), [_item(row) for row in rows]

    def by_id(self, prefix: str) -> Iterator[Item]:
        """Live rows in the order kine lists them, and so the order of the native copy: by id."""
        with self._lock:
            rows = self._database.execute(_LIVE + " ORDER BY id", (prefix, _end(prefix))).fetchall()
        return (_item(row) for row in rows)

    def create(self, key: str, value: bytes, lease: int = 0) -> int:
        with self._transaction():
            row = self._last(key)
            if row is not None and not row[3]:
                raise Exists(key)
            before = (0, None) if row is None else (row[0], row[6])
            return self._insert(key, 1, 0, 0, before[0], lease, value, before[1])

    def update(self, key: str, value: bytes, expected: int = 0, lease: int = 0) -> int:
        with self._transaction():
            row = self._expect(key, expected)
            return self._insert(key, 0, 0, _created(row), row[0], lease, value, row[6])

    def delete(self, key: str, expected: int = 0) -> int:
        with self._transaction():
            row = self._expect(key, expected)
            return self._insert(key, 0, 1, _created(row), row[0], 0, row[6], row[6])

    def replace_value(self, key: str, value: bytes) -> None:
        """Change the last row of a key in place; no k3s does that, only seeding."""
        with self._transaction():
            row = self._last(key)
            self._database.execute("UPDATE kine SET value = ? WHERE id = ?", (value, row[0] if row else 0))

    @contextlib.contextmanager
    def batch(self) -> Iterator[None]:
        """Many changes in one transaction, for seeding."""
        with self._transaction():
            yield

    def _expect(self, key: str, expected: int) -> tuple[int, str, int, int, int, int, bytes]:
        row = self._last(key)
        if row is None or row[3]:
            raise Missing(key)
        if expected and row[0] != expected:
            raise Changed(key)
        return row

    def _last(self, key: str) -> tuple[int, str, int, int, int, int, bytes] | None:
        with self._lock:
            found: tuple[int, str, int, int, int, int, bytes] | None = self._database.execute(
                f"SELECT {_ROW} FROM kine WHERE name = ? ORDER BY id DESC LIMIT 1", (key,)
            ).fetchone()
        return found

    def _insert(self, *values: object) -> int:
        return int(self._database.execute(_INSERT, values).lastrowid or 0)

    def _transaction(self) -> _Transaction:
        return _Transaction(self._lock, self._database)


class _Transaction:
    """BEGIN IMMEDIATE … COMMIT under the lock (kine's ``_txlock=immediate``)."""

    def __init__(self, lock: threading.RLock, database: sqlite3.Connection) -> None:
        self._lock, self._database = lock, database
        self._nested = False

    def __enter__(self) -> None:
        self._lock.acquire()
        self._nested = self._database.in_transaction
        try:
            if not self._nested:
                self._database.execute("BEGIN IMMEDIATE")
        except BaseException:
            self._lock.release()
            raise

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if not self._nested:
                self._database.execute("COMMIT" if kind is None else "ROLLBACK")
        finally:
            self._lock.release()


def listen(server: Path) -> socket.socket:
    """kine.sock, removed and made anew by every start of kine, mode 0600 (4.1)."""
    path = server / "kine.sock"
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    listener = socket.socket(socket.AF_UNIX)
    here = Path.cwd()
    try:
        # Bound by its short name: the path of a test may be longer than a socket address can be.
        os.chdir(server)
        listener.bind("kine.sock")
    finally:
        os.chdir(here)
    path.chmod(0o600)
    listener.listen()
    return listener


def _item(row: tuple[int, str, int, int, int, int, bytes]) -> Item:
    return Item(key=row[1], value=row[6] or b"", create_revision=_created(row), mod_revision=row[0], lease=row[5])


def _created(row: tuple[int, str, int, int, int, int, bytes]) -> int:
    return row[0] if row[2] else row[4]


def _end(prefix: str) -> str:
    return prefix[:-1] + chr(ord(prefix[-1]) + 1)
