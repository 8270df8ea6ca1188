"""The pre-image: the verified copy of everything an operation may change.

``<state_dir>/backups/<operation>/`` holds ``sealed.db`` (while k3s still runs: ``state.db``), the
files below ``files/`` under their absolute paths, and ``manifest.json`` with the SHA-256 of each and
of itself. All of it 0700 and 0600: it holds every Secret of the cluster. All of it blocks.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from k3s_ha_agent import durable
from k3s_ha_agent.errors import StepFailed
from k3s_ha_agent.operations.datastore_files import sha256_of

MANIFEST = "manifest.json"
RUNNING = "state.db"
SEALED = "sealed.db"


def directory(state_dir: Path, operation_id: str) -> Path:
    return state_dir / "backups" / operation_id


def copy_tree(sources: Iterable[Path], backup: Path) -> None:
    """Copy files and directories with modes, owners and mtimes below ``files/``; missing ones are passed over.

    mtimes matter: k3s refuses to start when a tls or cred file on disk is newer than its
    bootstrap data (k3s-facts M7). Sockets and the like are passed over.
    """
    for source in sources:
        for path in _files(source):
            target = backup / "files" / str(path).lstrip("/")
            durable.make_directory(target.parent)
            if path.is_symlink():
                with contextlib.suppress(FileNotFoundError):
                    target.unlink()
                target.symlink_to(path.readlink())
                durable.sync_directory(target.parent)
            else:
                durable.copy(path, target)


def _files(source: Path) -> Iterable[Path]:
    if source.is_symlink() or source.is_file():
        yield source
    elif source.is_dir():
        for entry in sorted(source.iterdir()):
            yield from _files(entry)


def write_manifest(backup: Path, about: Mapping[str, Any]) -> None:
    """Write the manifest over what is in the directory now. ``about``: counts, versions, digests."""
    files = {}
    for path in sorted(backup.rglob("*")):
        name = str(path.relative_to(backup))
        if name == MANIFEST or path.name.endswith(".tmp") or path.is_dir():
            continue
        files[name] = _describe(path)
    body = {"format": 1, "about": dict(about), "files": files}
    body["sha256"] = _self_digest(body)
    durable.write(backup / MANIFEST, json.dumps(body, indent=1, sort_keys=True).encode() + b"\n")


def _describe(path: Path) -> dict[str, Any]:
    status = path.lstat()
    if stat.S_ISLNK(status.st_mode):
        return {"link": str(path.readlink())}
    return {
        "sha256": sha256_of(path),
        "bytes": status.st_size,
        "mode": f"{stat.S_IMODE(status.st_mode):04o}",
        "mtime_ns": status.st_mtime_ns,
    }


def _self_digest(body: Mapping[str, Any]) -> str:
    rest = {k: v for k, v in body.items() if k != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def verify(backup: Path) -> Mapping[str, Any]:
    """Check the manifest and every file it names; returns what it says about the pre-image.

    StepFailed when anything is missing, different or unreadable.
    """
    path = backup / MANIFEST
    try:
        body = json.loads(path.read_bytes())
        claimed = body["sha256"]
        files = body["files"]
        about: Mapping[str, Any] = body["about"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StepFailed(f"The manifest {path} cannot be read ({type(error).__name__}: {error}).") from error
    if claimed != _self_digest(body):
        raise StepFailed(f"The manifest {path} does not have the SHA-256 it claims.")
    for name, described in files.items():
        try:
            found = _describe(backup / name)
        except OSError as error:
            raise StepFailed(f"{backup / name} of the pre-image cannot be read: {error.strerror}.") from error
        if found.get("sha256") != described.get("sha256") or found.get("link") != described.get("link"):
            raise StepFailed(f"{backup / name} of the pre-image is not what its manifest says.")
    return about


def remove_temporary(backup: Path) -> None:
    """Remove what a backup left that was cut off: nothing of it is needed, and it holds Secrets."""
    for path in backup.glob(".*"):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            durable.remove(path)
    for path in backup.rglob(".*.tmp"):  # of a copy below ``files/``
        durable.remove(path)


def tidy(backup: Path) -> str:
    """``remove_temporary`` on the way back, where a file that stays must not keep k3s from it; "" or what stays.

    The agent tries again whenever it starts (``remove_all_temporary``).
    """
    try:
        remove_temporary(backup)
    except OSError as error:
        return f"What a copy that was cut off left in {backup} cannot be removed yet: {error.strerror}."
    return ""


def remove_all_temporary(state_dir: Path) -> None:
    """``remove_temporary`` in every backup. OSError on the first that cannot be tidied."""
    for backup in (state_dir / "backups").glob("*"):
        remove_temporary(backup)


def free(backup: Path) -> None:
    """Remove the running copy once the sealed one is proven."""
    durable.remove(backup / RUNNING)


def remove_other_directories(parent: Path, keep: str) -> None:
    """Remove every directory in ``parent`` but ``keep``; used on quarantines after a success."""
    if not parent.is_dir():
        return
    for entry in parent.iterdir():
        if entry.name != keep:
            shutil.rmtree(entry)
    durable.sync_directory(parent)
