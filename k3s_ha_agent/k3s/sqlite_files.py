"""Opening a SQLite database of k3s without leaving a trace on it.

k3s's ``state.db`` is in WAL mode and its three files belong together (k3s-facts, "Seen" 2). Opened
in the ordinary way at rest, SQLite would rebuild ``-shm``, copy the WAL into the main file and
delete it on closing. The ways used here change no byte of the three:

* ``-wal`` and ``-shm`` are there: ``mode=ro`` with ``readonly_shm=1``. While k3s runs, SQLite reads
  the shared WAL index under its locks; at rest it builds a WAL index of its own on the heap.
* there is no WAL to read: ``immutable=1``, which takes no locks and makes no files. That nothing
  changed meanwhile is checked afterwards by inode, size and mtime.
* a WAL without ``-shm``: nobody has it open, for a connection cannot be without one. It is copied
  with the main file to a private directory below ``scratch`` and read there, with the same check.

POSIX drops all of a process's locks on a file when the process closes *any* descriptor of it:
while one of these connections is open, the same process must not open and close ``state.db`` or
``state.db-shm`` in another way (for hashing, say).
"""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import tempfile
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

from k3s_ha_agent.errors import KineError

SUFFIXES = ("", "-wal", "-shm", "-journal")
BUSY_SECONDS = 30.0
"""How long SQLite waits for a lock; what k3s itself uses (_busy_timeout=30000)."""

Fingerprint = tuple[tuple[int, int, int] | None, ...]


class ChangedMeanwhile(KineError):
    """Somebody wrote to a database that was taken to be at rest; reading it again helps."""


def beside(path: Path, suffix: str) -> Path:
    """The file SQLite keeps beside a database: ``-wal``, ``-shm``, ``-journal``."""
    return path.with_name(path.name + suffix)


def fingerprint(path: Path) -> Fingerprint:
    """Inode, size and mtime (ns) of the database and the files beside it; None for a missing one."""
    found: list[tuple[int, int, int] | None] = []
    for suffix in SUFFIXES:
        try:
            status = beside(path, suffix).stat()
        except FileNotFoundError:
            found.append(None)
        else:
            found.append((status.st_ino, status.st_size, status.st_mtime_ns))
    return tuple(found)


@contextlib.contextmanager
def opened_unchanged(path: Path, scratch: Path | None = None) -> Iterator[sqlite3.Connection]:
    """A connection in one read transaction, on which text comes as bytes; may be used from any thread,
    by one at a time. ``scratch`` is a directory with room for a copy, needed in the third case only.

    Raises KineError when there is no such database or it cannot be read, ChangedMeanwhile when it
    was written to while it was read without locks (what was read is then worth nothing).
    """
    if not path.is_file():
        raise KineError(f"There is no database {path}.", next_step="Check data_dir in the settings.")
    if path.is_symlink():
        # SQLite would look for the WAL beside the file it points to, and make one there.
        raise KineError(f"{path} is a symbolic link.", next_step="Put the real file there, with its -wal and -shm.")
    wal, shm, journal = (beside(path, suffix) for suffix in SUFFIXES[1:])
    location = path
    with contextlib.ExitStack() as stack:
        if wal.exists() and shm.exists():
            options, before = "mode=ro&readonly_shm=1", None
        else:
            options, before = "immutable=1", fingerprint(path)
            if journal.exists() or (wal.exists() and wal.stat().st_size > 0):
                if scratch is None:
                    raise KineError(
                        f"{path} has a {wal.name} without {shm.name} and cannot be read in place.",
                        next_step="Back it up first and read the backup.",
                    )
                location = stack.enter_context(_private_copy(path, scratch))
                options = "mode=rw"  # in the copy SQLite may recover as it likes
        connection = stack.enter_context(contextlib.closing(_connect(location, options, path)))
        try:
            connection.execute("BEGIN")
            # The transaction, and with it the snapshot, begins with the first read.
            connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
            yield connection
        except sqlite3.Error as error:
            raise KineError(f"{path} cannot be read: {error}.", next_step=_REMEDY) from error
        if before is not None and fingerprint(path) != before:
            raise ChangedMeanwhile(
                f"{path} changed while it was read.", next_step="Somebody started k3s meanwhile; try again."
            )


_REMEDY = "Look at it with: sqlite3 <a copy of it> 'PRAGMA integrity_check'."


def _connect(path: Path, options: str, named: Path) -> sqlite3.Connection:
    try:
        connection = sqlite3.connect(
            f"file:{urllib.parse.quote(str(path.absolute()))}?{options}",
            uri=True,
            timeout=BUSY_SECONDS,
            isolation_level=None,
            check_same_thread=False,
        )
    except sqlite3.Error as error:
        raise KineError(f"{named} cannot be opened: {error}.", next_step=_REMEDY) from error
    connection.text_factory = bytes
    return connection


@contextlib.contextmanager
def _private_copy(path: Path, scratch: Path) -> Iterator[Path]:
    """A copy of the database with its WAL or journal, in a 0700 directory of its own."""
    with tempfile.TemporaryDirectory(prefix=".read-", dir=scratch) as directory:
        for suffix in ("", "-wal", "-journal"):
            source = beside(path, suffix)
            if source.exists():
                shutil.copyfile(source, Path(directory) / source.name)
        yield Path(directory) / path.name
