"""A node's files, as this machine sees them: a fresh overlay, and the directories that must lie on a real disk."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Sequence
from pathlib import Path

from tests.lab import files, system
from tests.lab.system import LabError

ON_DISK = {
    "/var/lib/rancher": "rancher",
    "/var/lib/k3s-ha-agent": "state",
    "/var/lib/kubelet": "kubelet",
}
"""Directories of a node that lie on the machine's disk itself, not on the overlay: an fsync there is a real one, and a
real k3s needs a file system on which it can make overlays of its own."""


class Disk:
    """Below ``directory``: the overlay (``upper``, ``work``, ``root``), and one directory for each of ``ON_DISK``."""

    def __init__(self, directory: Path, name: str, address: str) -> None:
        self.directory = directory
        self.name = name
        self.address = address

    def leader(self) -> int | None:
        """The node's PID 1 as this machine numbers it; None when the node is off."""
        return None

    @property
    def root(self) -> Path:
        """The node's root as mounted on this machine."""
        return self.directory / "root"

    def path(self, inside: str) -> Path:
        """Where this machine sees a file of the node. Below /run and /tmp only while the node runs."""
        absolute = Path(inside)
        for top, own in ON_DISK.items():
            if absolute.is_relative_to(top):
                return self.directory / own / absolute.relative_to(top)
        if absolute.parts[1:2] in (("run",), ("tmp",), ("proc",), ("dev",)):
            leader = self.leader()
            if leader is None:
                raise LabError(f"{inside} of {self.name} is there only while the node runs.")
            return Path(f"/proc/{leader}/root") / absolute.relative_to("/")
        return self.root / absolute.relative_to("/")

    def read(self, inside: str) -> str:
        return self.path(inside).read_text()

    def write(self, inside: str, content: str | bytes, mode: int = 0o644) -> None:
        """Write a file, with the directories it needs."""
        path = self.path(inside)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        path.chmod(mode)

    def remove(self, inside: str) -> None:
        """Remove a file or a whole directory; nothing when it is not there."""
        path = self.path(inside)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)

    def exists(self, inside: str) -> bool:
        return os.path.lexists(self.path(inside))

    def copy_in(self, source: Path, inside: str) -> None:
        """Copy a file or a directory of this machine into the node."""
        target = self.path(inside)
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, symlinks=True, dirs_exist_ok=True)
        else:
            shutil.copy2(source, target)

    def tree(self, *tops: str, exclude: Sequence[str] = ()) -> dict[str, str]:
        """Every file below the given directories with kind, mode, owner, size, mtime and digest: compare two of them.

        ``exclude``: patterns (fnmatch) of paths in the node.
        """
        found: dict[str, str] = {}
        for top in tops:
            found |= files.listing(self.path(top), top, exclude)
        return found

    def make_disk(self, lower: Sequence[Path]) -> None:
        """A fresh disk over the layers of ``lower``."""
        for own in ("upper", *ON_DISK.values()):
            (self.directory / own).mkdir(parents=True)
        for top in ON_DISK:
            (self.directory / f"upper{top}").mkdir(parents=True)
        etc = self.directory / "upper/etc"
        etc.mkdir()
        (etc / "hostname").write_text(f"{self.name}\n")
        (etc / "machine-id").write_text(f"{secrets.token_hex(16)}\n")
        (etc / "hosts").write_text(f"127.0.0.1 localhost\n::1 localhost\n{self.address} {self.name}\n")
        upper, work = self.directory / "upper", self.directory / "work"
        system.mount_overlay(self.root, lower=lower, upper=upper, work=work)

    def remove_disk(self) -> None:
        """Forget all files. The node must be off."""
        if self.root.is_mount():
            system.unmount_root(self.root)
        shutil.rmtree(self.directory)
