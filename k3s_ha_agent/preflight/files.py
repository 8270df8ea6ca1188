"""What stat says below k3s's data dir, in /etc and of our own places, as one frozen value.

Blocking; called in a thread. Nothing is changed, and nothing is opened but the stage of secrets
encryption and directories (for their mount).
"""

from __future__ import annotations

import dataclasses
import os
import stat
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from k3s_ha_agent.k3s.layout import Layout, datastore
from k3s_ha_agent.model import Datastore

CLOCK_SKEW = 3.0
"""Seconds: what k3s tolerates between a file's mtime and the datastore (M7, systemTimeSkew)."""

_BOOTSTRAP_FILES = (
    "tls/server-ca.crt",
    "tls/server-ca.key",
    "tls/client-ca.crt",
    "tls/client-ca.key",
    "tls/request-header-ca.crt",
    "tls/request-header-ca.key",
    "tls/service.key",
    "tls/etcd/server-ca.crt",
    "tls/etcd/server-ca.key",
    "tls/etcd/peer-ca.crt",
    "tls/etcd/peer-ca.key",
    "cred/passwd",
    "cred/ipsec.psk",
)
"""What k3s keeps in its bootstrap data (ControlRuntimeBootstrap, k3s-facts "Files") and therefore
saves from disk into the new etcd."""

_CLIENT_FILES = ("tls/client-admin.crt", "tls/client-admin.key", "tls/etcd/client.crt", "tls/etcd/client.key")
"""What the agent needs to prove the result at the API server and at etcd."""


@dataclasses.dataclass(frozen=True, slots=True)
class FileFacts:
    datastore: Datastore
    datastore_detail: str
    sqlite_bytes: int
    """``state.db`` and its WAL together: a copy of both is not larger."""
    migrated: bool
    """``state.db.migrated`` exists."""
    leftovers: tuple[Path, ...]
    """Temporary directories of etcd, and an etcd without its wal."""
    reset_flag: bool
    tombstone: bool
    credentials_missing: tuple[str, ...]
    """Files without which k3s cannot be brought back or not be asked (M18), relative to ``server/``;
    an empty file counts as missing."""
    credentials_in_future: tuple[str, ...]
    """Those whose mtime is more than three seconds ahead of the clock (M7)."""
    surprises: tuple[str, ...]
    """Links, mount points and other things that are not what a rename expects; each a sentence."""
    encryption: bool
    """``cred/encryption-config.json`` exists."""
    encryption_stage: str | None
    """Stage of its rotation (``cred/encryption-state.json``), None when nothing says."""
    config_drop_in: bool
    """Our drop-in for k3s exists."""
    gate: bool
    """Our drop-in for the unit exists."""
    db_mount: int
    """Id of the mount that holds ``server/db``."""
    quarantine_mount: int
    """Id of the mount that holds the quarantine, or would."""
    unwritable: tuple[Path, ...]
    """Directories the operation writes to and that cannot be written to."""
    unit_drop_ins: tuple[Path, ...]
    """The drop-ins of the unit that lie where an administrator's and a generator's do, ours not counted."""
    changed_at: Mapping[Path, float]
    """mtime, seconds since the epoch, of the files k3s and systemd read at the next start."""


def read(layout: Layout, *, drop_in: Path, gate: Path, state_dir: Path, read_at_start: Sequence[Path]) -> FileFacts:
    """Look at everything. OSError when something cannot be looked at: not knowing is not "no".

    ``read_at_start`` are the files whose mtimes are wanted; those that do not exist are left out.
    """
    verdict, detail = datastore(layout)
    written = (state_dir, layout.db, layout.quarantine, gate.parent, drop_in.parent)
    return FileFacts(
        datastore=verdict,
        datastore_detail=detail,
        sqlite_bytes=_length(layout.state_db) + _length(layout.state_db_wal),
        migrated=_there(layout.state_db_migrated),
        leftovers=(*layout.leftovers(), *_etcd_without_wal(layout)),
        reset_flag=_there(layout.reset_flag),
        tombstone=_there(layout.tombstone),
        credentials_missing=tuple(n for n in _BOOTSTRAP_FILES + _CLIENT_FILES if not _length(layout.server / n)),
        credentials_in_future=_in_future(layout),
        surprises=tuple(_surprises(layout)),
        encryption=_there(layout.cred / "encryption-config.json"),
        encryption_stage=_encryption_stage(layout),
        config_drop_in=_there(drop_in),
        gate=_there(gate),
        db_mount=mount_id(nearest(layout.db)),
        quarantine_mount=mount_id(nearest(layout.quarantine)),
        unwritable=tuple(p for p in written if not os.access(nearest(p), os.W_OK | os.X_OK)),
        unit_drop_ins=tuple(_unit_drop_ins(gate)),
        changed_at={path: path.stat().st_mtime for path in read_at_start if path.exists()},
    )


def _unit_drop_ins(gate: Path) -> Iterator[Path]:
    """Drop-ins beside the gate, and those in /run, that say something: a link to /dev/null masks another one."""
    for directory in (gate.parent, Path("/run/systemd/system") / gate.parent.name):
        try:
            names = sorted(entry.name for entry in directory.iterdir())
        except (FileNotFoundError, NotADirectoryError):
            continue
        for path in (directory / name for name in names if name.endswith(".conf") and name != gate.name):
            if path.is_file() and path.stat().st_size:
                yield path


def nearest(path: Path) -> Path:
    """The path itself, or the nearest directory above it that exists."""
    while not path.exists():
        path = path.parent
    return path


def mount_id(path: Path) -> int:
    """The kernel's id of the mount that holds a path.

    A rename between two mounts fails with EXDEV even where both show the same file system (bind
    mounts, ReadWritePaths= of a unit), so that st_dev is not enough.
    """
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        text = Path(f"/proc/self/fdinfo/{fd}").read_text()
    finally:
        os.close(fd)
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name == "mnt_id":
            return int(value)
    raise OSError(f"the kernel does not say on which mount {path} lies")


def _there(path: Path) -> bool:
    """Also true for a dangling link. OSError when it cannot be known."""
    return _lstat(path) is not None


def _lstat(path: Path) -> os.stat_result | None:
    try:
        return path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None


def _length(path: Path) -> int:
    try:
        return path.stat().st_size
    except (FileNotFoundError, NotADirectoryError):
        return 0


def _etcd_without_wal(layout: Layout) -> tuple[Path, ...]:
    member = layout.etcd_member_wal.parent
    return (member,) if _there(member) and not _there(layout.etcd_member_wal) else ()


def _in_future(layout: Layout) -> tuple[str, ...]:
    limit = time.time() + CLOCK_SKEW
    stats = ((name, _lstat(layout.server / name)) for name in _BOOTSTRAP_FILES)
    return tuple(name for name, found in stats if found is not None and found.st_mtime > limit)


def _surprises(layout: Layout) -> Iterator[str]:
    for path in (layout.state_db, layout.state_db_wal, layout.state_db_shm, layout.state_db_migrated):
        found = _lstat(path)
        if found is None:
            continue
        if stat.S_ISLNK(found.st_mode):
            yield f"{path} is a symbolic link to {path.readlink()}."
        elif not stat.S_ISREG(found.st_mode):
            yield f"{path} is not a regular file."
        elif mount_id(path) != mount_id(path.parent):
            yield f"{path} is a mount point."
    found = _lstat(layout.etcd)
    if found is None:
        return
    if stat.S_ISLNK(found.st_mode):
        yield f"{layout.etcd} is a symbolic link to {layout.etcd.readlink()}."
    elif not stat.S_ISDIR(found.st_mode):
        yield f"{layout.etcd} is not a directory."
    elif mount_id(layout.etcd) != mount_id(layout.db):
        yield f"{layout.etcd} is a mount point."


def _encryption_stage(layout: Layout) -> str | None:
    """The file holds ``<stage>-<sha256>`` (WriteEncryptionHashAnnotation, pkg/secretsencrypt/config.go)."""
    try:
        text = (layout.cred / "encryption-state.json").read_text(errors="replace").strip()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return text.rpartition("-")[0] or "unreadable"
