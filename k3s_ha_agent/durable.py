"""Changes to files that are still there after the power fails.

Everything the agent must not lose goes through these functions: data is synced before a name
points to it, and the directory is synced after the name changed. POSIX gives no order between a
rename and the data of the file without the first sync, and no durability of the name without the
second. Standard library only; used by every room.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
from pathlib import Path


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_file(path: Path) -> None:
    """Make the data of a file durable (a file somebody else wrote)."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_directory(path: Path, mode: int = 0o700) -> None:
    """Make a directory and its missing parents, each with ``mode``, durable. Safe to run twice.

    One that is there is synced into its parent all the same: who made it may not have come to that.
    """
    if path.is_dir():
        sync_directory(path.parent)
        return
    make_directory(path.parent, mode)
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=mode)
        path.chmod(mode)
    sync_directory(path.parent)


def write(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Replace a file: either the old content or all of the new one is there, never a part."""
    temporary = path.with_name(f".{path.name}.tmp")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        os.fchmod(fd, mode)
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        os.fsync(fd)
    finally:
        os.close(fd)
    temporary.rename(path)
    sync_directory(path.parent)


def append(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Add to the end of a file and sync it."""
    new = not path.exists()
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, mode)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        os.fsync(fd)
    finally:
        os.close(fd)
    if new:
        sync_directory(path.parent)


def rename(source: Path, target: Path) -> None:
    """Move within a file system; both directories are durable afterwards.

    OSError with EXDEV when the two lie on different file systems.
    """
    source.rename(target)
    sync_directory(target.parent)
    if source.parent != target.parent:
        sync_directory(source.parent)


def remove(path: Path) -> None:
    """Remove a file, and what a ``write`` or ``copy`` to it left that was cut off. Safe to run twice."""
    for name in (path, path.with_name(f".{path.name}.tmp")):
        with contextlib.suppress(FileNotFoundError):
            name.unlink()
    if path.parent.is_dir():
        sync_directory(path.parent)


def remove_directory_if_empty(path: Path) -> None:
    """Remove a directory unless somebody else's files are in it. Safe to run twice."""
    try:
        path.rmdir()
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.ENOENT, errno.EBUSY):
            raise
        return
    sync_directory(path.parent)


def copy(source: Path, target: Path) -> None:
    """Copy a file with its mode, owner and mtime, under a temporary name first.

    k3s compares mtimes of tls and cred files with its bootstrap data (k3s-facts M7), so they are
    kept to the nanosecond.
    """
    temporary = target.with_name(f".{target.name}.tmp")
    status = source.stat()
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with source.open("rb") as read, os.fdopen(fd, "wb") as written:
        shutil.copyfileobj(read, written, 1024 * 1024)
        written.flush()
        os.fchown(written.fileno(), status.st_uid, status.st_gid)
        os.fchmod(written.fileno(), stat.S_IMODE(status.st_mode))
        os.utime(written.fileno(), ns=(status.st_atime_ns, status.st_mtime_ns))
        os.fsync(written.fileno())
    temporary.rename(target)
    sync_directory(target.parent)
