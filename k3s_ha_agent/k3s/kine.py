"""Read, check, back up and digest a kine SQLite database.

kine keeps a log in one table (k3s-facts, "Files"): a key's row with the highest id is its present
state, and it lives unless ``deleted`` is set. k3s's own conversion copies just these rows below
``/registry/`` ("ten facts" 7).

Every function here blocks and belongs in a thread. None changes the database it reads, nor its
``-wal`` and ``-shm``, also while k3s writes to it (``sqlite_files`` says how, and what the same
process must not do meanwhile). All raise KineError.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from k3s_ha_agent import durable
from k3s_ha_agent.errors import KineError
from k3s_ha_agent.k3s.digest import Digester, Digests
from k3s_ha_agent.k3s.sqlite_files import SUFFIXES, ChangedMeanwhile, beside, opened_unchanged

REGISTRY = "/registry/"
BOOTSTRAP = "/bootstrap/"
_COMPACT_KEY = b"compact_rev_key"
_COLUMNS = {
    *("id", "name", "created", "deleted", "create_revision", "prev_revision", "lease", "value", "old_value"),
}
_PAGES = 1024
"""Pages per step of a backup: 4 MiB, the grain of its progress and of its being cancelled."""
_TRIES = 5


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """The present state of one key."""

    key: bytes
    value: bytes
    mod_revision: int
    create_revision: int
    lease: int
    """Seconds to live as asked for when it was written (kine keeps a TTL here, not an id); 0 for none."""


@dataclasses.dataclass(frozen=True, slots=True)
class KineSummary:
    rows: int
    """All rows of the table, history included."""
    live_rows: int
    """Keys below ``/registry/`` that live: what a conversion must carry over."""
    live_bytes: int
    """Bytes of their names and values."""
    max_id: int
    """kine's current revision."""
    compact_revision: int
    biggest_key: str
    biggest_bytes: int
    """Bytes of name and value of the biggest live key below ``/registry/``."""
    bootstrap_keys: tuple[str, ...]
    """Live keys below ``/bootstrap/``, whole (``/bootstrap/d39c08e28906``)."""
    leased_rows: int
    """Live keys below ``/registry/`` with a lease, which k3s's own conversion drops."""


def backup(
    source: Path,
    target: Path,
    *,
    cancel: threading.Event | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Copy a database with what is in its WAL, through SQLite's backup API, as it was at one moment.

    The source may be in use or at rest. The target is one self-contained file (no WAL mode),
    0600 and durable before it gets its name; one that was there is replaced. ``progress`` gets
    pages copied and pages in all; setting ``cancel`` ends it with KineError. On any failure the
    target is as it was.
    """
    if target.exists() and target.samefile(source):
        raise KineError(f"{source} cannot be backed up onto itself.")
    temporary = target.with_name(f".{target.name}.tmp")
    try:
        for attempt in range(1, _TRIES + 1):
            try:
                _backup_once(source, temporary, cancel, progress)
                break
            except ChangedMeanwhile:
                if attempt == _TRIES:
                    raise
        durable.sync_file(temporary)
        for suffix in SUFFIXES[1:]:
            beside(target, suffix).unlink(missing_ok=True)
        durable.rename(temporary, target)
    except OSError as error:
        raise KineError(f"The backup of {source} to {target} failed: {error}.") from error
    finally:
        _remove(temporary)


def _backup_once(
    source: Path,
    temporary: Path,
    cancel: threading.Event | None,
    progress: Callable[[int, int], None] | None,
) -> None:
    _remove(temporary)
    os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))

    def step(_status: int, remaining: int, total: int) -> None:
        if progress is not None:
            progress(total - remaining, total)
        if cancel is not None and cancel.is_set():
            raise KineError(f"The backup of {source} was cancelled.")

    # The read transaction on the source holds one snapshot for all the steps. Without it the
    # backup would begin anew with every write of k3s, and never end on a busy server.
    with opened_unchanged(source, scratch=temporary.parent) as reader:
        with contextlib.closing(sqlite3.connect(temporary, isolation_level=None)) as writer:
            writer.execute("PRAGMA synchronous = OFF")  # synced as a whole before it gets its name
            reader.backup(writer, pages=_PAGES, progress=step)
            (mode,) = writer.execute("PRAGMA journal_mode = DELETE").fetchone()
            if mode != "delete":
                raise KineError(f"The backup of {source} stayed in journal mode {mode}.")
    for suffix in SUFFIXES[1:]:
        if beside(temporary, suffix).exists():
            raise KineError(f"SQLite left {beside(temporary, suffix)} behind; the backup is not in one file.")


def _remove(temporary: Path) -> None:
    for suffix in SUFFIXES:
        beside(temporary, suffix).unlink(missing_ok=True)


def check(path: Path) -> None:
    """Whether it is a whole and sound kine database; KineError says what is wrong with it.

    Reads all of it. Sound is not complete: a main file without its WAL is sound too (k3s-facts,
    "ten facts" 5), so counts and digests are compared besides.
    """
    with opened_unchanged(path) as connection:
        problems = [text.decode("utf-8", "replace") for (text,) in connection.execute("PRAGMA integrity_check(10)")]
        if problems != ["ok"]:
            raise KineError(
                f"{path} is corrupt: {'; '.join(problems)}.",
                next_step="Restore it from a backup, or dump and reload it with sqlite3's .recover.",
                problems=problems,
            )
        columns = {name.decode() for _, name, *_ in connection.execute("PRAGMA table_info(kine)")}
        if not columns:
            raise KineError(f"{path} has no table kine: it is not a k3s datastore.")
        if missing := sorted(_COLUMNS - columns):
            raise KineError(f"The table kine of {path} lacks {', '.join(missing)}.")


def summarize(path: Path) -> KineSummary:
    """Counts and sizes, without reading the values themselves."""
    live_rows = live_bytes = leased_rows = biggest_bytes = 0
    biggest_key = b""
    with opened_unchanged(path) as connection:
        rows, max_id = connection.execute("SELECT COUNT(*), COALESCE(MAX(id), 0) FROM kine").fetchone()
        compact = connection.execute(
            "SELECT COALESCE(MAX(prev_revision), 0) FROM kine WHERE name = ?", (_COMPACT_KEY.decode(),)
        ).fetchone()[0]
        for name, size, lease in _current(connection, REGISTRY, "COALESCE(LENGTH(CAST(value AS BLOB)), 0), lease"):
            size += len(name)
            live_rows += 1
            live_bytes += size
            leased_rows += bool(lease)
            if size > biggest_bytes:
                biggest_key, biggest_bytes = name, size
        bootstrap = tuple(name.decode("utf-8", "replace") for name, _ in _current(connection, BOOTSTRAP, "id"))
    return KineSummary(
        rows=rows,
        live_rows=live_rows,
        live_bytes=live_bytes,
        max_id=max_id,
        compact_revision=compact,
        biggest_key=biggest_key.decode("utf-8", "replace"),
        biggest_bytes=biggest_bytes,
        bootstrap_keys=bootstrap,
        leased_rows=leased_rows,
    )


def live_rows(path: Path, prefix: str = REGISTRY) -> Iterator[Row]:
    """The living keys below a prefix in byte order, one at a time, of one snapshot.

    Memory does not grow with the database. Close the iterator (``contextlib.closing``) when it is
    not read to its end: it holds a read transaction.
    """
    columns = "value, id, CASE WHEN created <> 0 THEN id ELSE create_revision END, lease"
    with opened_unchanged(path) as connection:
        for name, value, mod_revision, create_revision, lease in _current(connection, prefix, columns):
            yield Row(name, _blob(value), mod_revision, create_revision or 0, lease or 0)


def digests(path: Path, prefix: str = REGISTRY) -> Digests:
    """The digest over the living keys below a prefix; equal to that of the same keys in etcd."""
    digester = Digester()
    for row in live_rows(path, prefix):
        digester.add(row.key, row.value)
    return digester.result()


def _current(connection: sqlite3.Connection, prefix: str, columns: str) -> Iterator[tuple[Any, ...]]:
    """Name and columns of the last row of each living key.

    Two statements instead of a join: the outer one walks the index on ``name`` in its order
    (BINARY collation, UTF-8: the byte order of etcd), the inner one fetches by id. A join would
    let SQLite sort whole values aside.
    """
    names = connection.execute(
        "SELECT name, MAX(id) FROM kine WHERE name >= ? AND name < ? GROUP BY name ORDER BY name",
        (prefix, prefix[:-1] + chr(ord(prefix[-1]) + 1)),
    )
    fetch = f"SELECT {columns} FROM kine WHERE id = ? AND deleted = 0"  # noqa: S608 - our own columns
    for name, row_id in names:
        row = connection.execute(fetch, (row_id,)).fetchone()
        if row is not None:
            yield (_blob(name), *row)


def _blob(value: bytes | str | None) -> bytes:
    if value is None:
        return b""
    return value.encode() if isinstance(value, str) else bytes(value)
