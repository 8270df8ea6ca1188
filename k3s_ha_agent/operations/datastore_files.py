"""The moves that decide which datastore k3s starts on, each safe to run twice and at rest only.

k3s looks only at ``db/etcd/member/wal`` (k3s-facts, "ten facts" 1). The gate refuses to start
k3s unless exactly one of ``member/wal`` and ``state.db`` is there, so the order of the moves below
matters: whenever the gate would let k3s pass, what it would start on is whole.

All of it blocks; steps call it in a thread, with k3s stopped.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from k3s_ha_agent import durable
from k3s_ha_agent.errors import StepFailed
from k3s_ha_agent.k3s.layout import Layout

CHUNK = 1024 * 1024
TEMPORARY = ".state.db.k3s-ha-agent"
"""In ``server/db``: the pre-image before it gets its name."""
RESTORED = "restored-inode"
"""In the quarantine of an operation: the inode of the pre-image that was put back. ``rescue.py`` knows it too."""


def sha256_of(path: Path) -> str:
    """SHA-256 of a file as hex, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(CHUNK):
            digest.update(piece)
    return digest.hexdigest()


def move_aside(path: Path, quarantine: Path) -> bool:
    """Move a file or directory into ``quarantine``; False when it is not there.

    A name already taken there (an earlier try of the same operation) gets a number. The move is a
    rename: OSError with EXDEV when the quarantine lies on another file system.
    """
    if not os.path.lexists(path):
        # Moved by an earlier try, which may have ended before that was durable.
        for directory in (quarantine, path.parent):
            if directory.is_dir():
                durable.sync_directory(directory)
        return False
    durable.make_directory(quarantine)
    target = quarantine / path.name
    number = 1
    while os.path.lexists(target):
        number += 1
        target = quarantine / f"{path.name}.{number}"
    durable.rename(path, target)
    return True


def retire_etcd(layout: Layout, quarantine: Path) -> bool:
    """Take etcd's directory out of the way in one rename."""
    return move_aside(layout.etcd, quarantine)


def retire_sqlite(layout: Layout, quarantine: Path) -> None:
    """Take the SQLite files out of the way, ``state.db`` first.

    ``state.db`` without its WAL is silently incomplete (k3s-facts, "Seen" 2), so it must never
    lie there without it: once it is gone the gate refuses, and the rest may follow.
    """
    for path in (layout.state_db, layout.state_db_migrated, layout.state_db_wal, layout.state_db_shm):
        move_aside(path, quarantine)


def put_back_sqlite(layout: Layout, sealed: Path, sha256: str, quarantine: Path) -> None:
    """Make ``state.db`` the sealed pre-image, without WAL and shared memory, etcd out of the way.

    A stale WAL beside a restored ``state.db`` silently yields other data ("ten facts" 6). The copy is made and
    read back before anything is moved: a full disk then leaves everything where it was. Once it was put back it
    is left alone, for k3s may have run on it since. Raises StepFailed when the sealed copy is not the one that
    was sealed; nothing was changed then.
    """
    if is_restored(layout, quarantine):
        durable.sync_directory(layout.db)
        return
    found = sha256_of(sealed)
    if found != sha256:
        raise StepFailed(
            f"The sealed pre-image {sealed} has SHA-256 {found}, sealed was {sha256}.",
            next_step="The pre-image is damaged; nothing was replaced. Keep the directory and look at the disk.",
        )
    temporary = layout.db / TEMPORARY
    _copy(sealed, temporary)
    if sha256_of(temporary) != sha256:
        raise StepFailed(f"The copy of the pre-image in {layout.db} differs from it right after it was written.")
    retire_etcd(layout, quarantine)
    retire_sqlite(layout, quarantine)
    durable.make_directory(quarantine)
    durable.write(quarantine / RESTORED, f"{temporary.stat().st_ino}\n".encode())
    durable.rename(temporary, layout.state_db)


def conversion_began(layout: Layout, inode: int, quarantine: Path) -> bool:
    """Whether anything but k3s on its own SQLite has touched the datastore: False only when ``state.db`` is still the
    file with that inode and no etcd was ever initialised, neither in place nor, by now, in ``quarantine``.

    k3s writes to etcd only after ``member/wal`` is there ("ten facts" 1 and 3), so without it ``state.db`` and its WAL
    are all there is, and may have rows that came after the pre-image was sealed.
    """
    if layout.etcd_member_wal.exists() or any(quarantine.glob(f"{layout.etcd.name}*/member/wal")):
        return True
    return not layout.state_db.exists() or layout.state_db.stat().st_ino != inode


def state_of(layout: Layout) -> list[list[int] | None]:
    """Inode, size and mtime (ns) of ``state.db`` and its WAL: whether k3s has written since. JSON values."""

    def look(path: Path) -> list[int] | None:
        try:
            status = path.stat()
        except FileNotFoundError:
            return None
        return [status.st_ino, status.st_size, status.st_mtime_ns]

    return [look(layout.state_db), look(layout.state_db_wal)]


def require_unchanged(layout: Layout, sealed_of: list[list[int] | None]) -> None:
    """StepFailed when SQLite is not what the sealed pre-image was made of: rows would be lost by putting that back."""
    if state_of(layout) != sealed_of:
        raise StepFailed(
            f"{layout.state_db} has changed since it was sealed: somebody ran k3s in the window.",
            next_step="Nothing was converted; leave k3s alone until the operation has ended.",
        )


def is_restored(layout: Layout, quarantine: Path) -> bool:
    """Whether ``state.db`` is the pre-image that this operation put back, agent or rescue, and k3s stayed on it.

    By then k3s may have run on it: it is not the sealed file byte for byte any more, and must not be replaced.
    """
    if layout.etcd_member_wal.exists():
        return False
    try:
        return layout.state_db.stat().st_ino == int((quarantine / RESTORED).read_text())
    except (FileNotFoundError, ValueError):
        return False


def set_aside_remains(layout: Layout, quarantine: Path) -> None:
    """Move away what a start on etcd left that was cut off before there was an etcd.

    k3s on SQLite does not look at it, but the next conversion would meet it, and preflight refuses it ("Seen" 17).
    """
    for path in (*layout.leftovers(), *(() if layout.etcd_member_wal.exists() else (layout.etcd_member_wal.parent,))):
        move_aside(path, quarantine)


def remove_temporary(layout: Layout) -> None:
    """Remove what a restoration left that was cut off. Safe to run twice."""
    if layout.db.is_dir():
        durable.remove(layout.db / TEMPORARY)


def _copy(source: Path, target: Path) -> None:
    """Copy the data, owned by us as k3s's own; durable. Safe to run twice."""
    fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with source.open("rb") as read, os.fdopen(fd, "wb") as written:
        while piece := read.read(CHUNK):
            written.write(piece)
        written.flush()
        os.fchmod(written.fileno(), 0o644)  # what k3s itself gives it (recordings, listing-migrated.txt)
        os.fsync(written.fileno())


def put_back_etcd(layout: Layout, quarantine: Path) -> None:
    """Undo ``retire_etcd``: SQLite out of the way, then etcd's directory back in one rename."""
    kept = quarantine / layout.etcd.name
    if not kept.exists():
        durable.sync_directory(layout.db)  # moved back by an earlier try, perhaps not durably
        return
    if layout.etcd_member_wal.exists():
        raise StepFailed(
            f"Both {layout.etcd_member_wal} and {kept} exist: another etcd datastore has appeared.",
            next_step="Somebody started k3s meanwhile; see docs/runbook.md#two-etcd-directories.",
        )
    retire_sqlite(layout, quarantine / "sqlite")
    move_aside(layout.etcd, quarantine / "empty-etcd")
    durable.rename(kept, layout.etcd)
