"""Everything of a node that a program which does nothing leaves as it is."""

from __future__ import annotations

import stat
from collections.abc import Mapping
from pathlib import Path

from tests.crash.quick_node import K3S, QuickNode

Tree = Mapping[str, tuple[object, ...]]


def tree(node: QuickNode) -> Tree:
    """Each file and directory with mode, owner, inode, size and mtime; and the run of k3s.

    Without the lock, which says who was last, and without what k3s and etcd write while they run.
    """
    found: dict[str, tuple[object, ...]] = {"k3s": (node.systemd.unit(K3S)["main_pid"], node.k3s_state())}
    for place in (node.state, node.systemd.units, node.root / "etc", node.data):
        for path in (place, *place.rglob("*")):
            if path != node.state / "lock" and not _is_written_by_k3s(node, path):
                about = path.lstat()
                facts = (stat.filemode(about.st_mode), about.st_uid, about.st_gid, about.st_ino)
                found[str(path)] = facts if path.is_dir() else (*facts, about.st_size, about.st_mtime_ns)
    return found


def _is_written_by_k3s(node: QuickNode, path: Path) -> bool:
    return node.db / "etcd" in path.parents or path.name in ("state.db-wal", "state.db-shm")


def changes(before: Tree, after: Tree) -> list[str]:
    """One line for each thing that is not as it was."""
    return [
        f"{name}: {before.get(name)} -> {after.get(name)}"
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    ]
