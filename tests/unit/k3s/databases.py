"""Making kine databases for tests."""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
from collections.abc import Iterable
from pathlib import Path

SCHEMA = """
CREATE TABLE kine (id INTEGER PRIMARY KEY AUTOINCREMENT, name INTEGER, created INTEGER, deleted INTEGER,
  create_revision INTEGER, prev_revision INTEGER, lease INTEGER, value BLOB, old_value BLOB);
CREATE INDEX kine_name_index ON kine (name);
CREATE INDEX kine_name_id_index ON kine (name,id);
CREATE INDEX kine_id_deleted_index ON kine (id,deleted);
CREATE INDEX kine_prev_revision_index ON kine (prev_revision);
CREATE UNIQUE INDEX kine_name_prev_revision_uindex ON kine (name, prev_revision);
"""
"""As recorded from v1.22.2 (kine 0.8.0); a test holds it against the recording."""


def make(path: Path, rows: Iterable[tuple[str, bytes]]) -> Path:
    """A database at rest in one file with one created row for each key."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.executescript(SCHEMA)
        database.executemany(
            "INSERT INTO kine(name, created, deleted, create_revision, prev_revision, lease, value)"
            " VALUES (?, 1, 0, 0, 0, 0, ?)",
            rows,
        )
    return path


def execute(path: Path, *statements: tuple[str, tuple[object, ...]]) -> None:
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        for statement, values in statements:
            database.execute(statement, values)


def traces(path: Path) -> dict[str, tuple[str, int, int, int]]:
    """For every file in the database's directory: content hash, inode, size and mtime (ns)."""
    found = {}
    for file in sorted(path.parent.iterdir()):
        status = file.stat()
        content = hashlib.sha256(file.read_bytes()).hexdigest()
        found[file.name] = (content, status.st_ino, status.st_size, status.st_mtime_ns)
    return found
