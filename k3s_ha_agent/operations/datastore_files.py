"""The moves that decide which datastore k3s starts on, each safe to run twice and at rest only.

k3s looks only at ``db/etcd/member/wal`` (k3s-facts, "ten facts" 1). The gate refuses to start
k3s unless exactly one of ``member/wal`` and ``state.db`` is there, so the order of the moves below
matters: whenever the gate would let k3s pass, what it would start on is whole.

All of it blocks; steps call it in a thread, with k3s stopped.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path

from k3s_ha_agent import durable
from k3s_ha_agent.errors import StepFailed
from k3s_ha_agent.k3s.layout import Layout

CHUNK = 1024 * 1024


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

    A stale WAL beside a restored ``state.db`` silently yields other data ("ten facts" 6). Raises
    StepFailed when the sealed copy is not the one that was sealed; nothing was changed then.
    """
    found = sha256_of(sealed)
    if found != sha256:
        raise StepFailed(
            f"The sealed pre-image {sealed} has SHA-256 {found}, sealed was {sha256}.",
            next_step="The pre-image is damaged; nothing was replaced. Keep the directory and look at the disk.",
        )
    retire_etcd(layout, quarantine)
    if layout.state_db.exists() and not _has_tail(layout) and sha256_of(layout.state_db) == sha256:
        return
    retire_sqlite(layout, quarantine)
    temporary = layout.db / ".state.db.k3s-ha-agent"
    with contextlib.suppress(FileNotFoundError):
        temporary.unlink()
    _copy(sealed, temporary)
    if sha256_of(temporary) != sha256:
        raise StepFailed(f"The copy of the pre-image in {layout.db} differs from it right after it was written.")
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


def _has_tail(layout: Layout) -> bool:
    return layout.state_db_wal.exists() or layout.state_db_shm.exists()


def _copy(source: Path, target: Path) -> None:
    """Copy the data, 0600, owned as the directory is; durable."""
    fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
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
        return
    if layout.etcd_member_wal.exists():
        raise StepFailed(
            f"Both {layout.etcd_member_wal} and {kept} exist: another etcd datastore has appeared.",
            next_step="Somebody started k3s meanwhile; see docs/runbook.md#two-etcd-directories.",
        )
    retire_sqlite(layout, quarantine / "sqlite")
    move_aside(layout.etcd, quarantine / "empty-etcd")
    durable.rename(kept, layout.etcd)
