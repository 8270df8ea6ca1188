"""Listings of directories that two moments can be compared by."""

from __future__ import annotations

import fnmatch
import hashlib
import os
import stat
from collections.abc import Sequence
from pathlib import Path


def listing(directory: Path, name: str, exclude: Sequence[str] = ()) -> dict[str, str]:
    """Each file below ``directory``, under the path it has below ``name``, with what there is to see of it."""
    found: dict[str, str] = {}
    if not os.path.lexists(directory):
        return {name: "missing"}
    for parent, directories, files in os.walk(directory):
        directories.sort()
        for entry in (".", *directories, *files):
            path = Path(parent, entry)
            shown = str(Path(name, path.relative_to(directory)))
            if any(fnmatch.fnmatchcase(shown, pattern) for pattern in exclude):
                continue
            try:
                found[shown] = _facts(path)
            except FileNotFoundError:  # gone between the listing and the look
                continue
    return found


def _facts(path: Path) -> str:
    status = path.lstat()
    facts = [stat.filemode(status.st_mode), f"{status.st_uid}:{status.st_gid}"]
    if stat.S_ISREG(status.st_mode):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
        facts += [f"{status.st_size} bytes", f"mtime {status.st_mtime_ns}", f"sha256 {digest}"]
    elif stat.S_ISLNK(status.st_mode):
        facts.append(f"-> {os.readlink(path)}")
    return ", ".join(facts)
