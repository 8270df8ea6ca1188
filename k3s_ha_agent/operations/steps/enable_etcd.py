"""Our own file under config.yaml.d: ``cluster-init: true`` put there, or taken away.

A drop-in is enough for k3s (k3s-facts, "Seen" 4); the unit, the installer and the user's files
are never touched, and re-running the installer does not touch ours.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from k3s_ha_agent import durable
from k3s_ha_agent.errors import StepFailed
from k3s_ha_agent.k3s.configuration import cluster_init_drop_in
from k3s_ha_agent.operations.plan import Run
from k3s_ha_agent.operations.threads import in_thread


@dataclasses.dataclass(frozen=True, slots=True)
class EnableEtcd:
    drop_in: Path

    name: str = "enable-etcd"
    resumable: bool = True
    on_disk: str = "k3s is stopped on SQLite; our drop-in with cluster-init is there or not."
    by_hand: str = "Remove our drop-in, remove the gate, start k3s."

    async def do(self, run: Run) -> None:
        made = not await in_thread(self.drop_in.parent.is_dir)
        if not run.has_fact("drop_in_directory_made"):
            await run.remember(drop_in_directory_made=made)
        await in_thread(write_drop_in, self.drop_in)

    async def verify(self, run: Run) -> None:
        if await in_thread(self.drop_in.read_bytes) != cluster_init_drop_in():
            raise StepFailed(f"{self.drop_in} is not what was written to it.")

    async def undo(self, run: Run) -> None:
        made = run.has_fact("drop_in_directory_made") and run.fact("drop_in_directory_made")
        await in_thread(remove_drop_in, self.drop_in, bool(made))


@dataclasses.dataclass(frozen=True, slots=True)
class DisableEtcd:
    """The other way round, for a rollback on request."""

    drop_in: Path

    name: str = "disable-etcd"
    resumable: bool = True
    on_disk: str = "k3s is stopped; etcd's directory is in place, our drop-in with cluster-init is there or not."
    by_hand: str = "Remove the gate and start k3s: it is still on etcd, which the directory alone decides."

    async def do(self, run: Run) -> None:
        if not run.has_fact("drop_in_was"):
            was = await in_thread(lambda: self.drop_in.read_text() if self.drop_in.exists() else None)
            await run.remember(drop_in_was=was)
        await in_thread(remove_drop_in, self.drop_in, True)

    async def verify(self, run: Run) -> None:
        if await in_thread(self.drop_in.exists):
            raise StepFailed(f"{self.drop_in} is still there.")

    async def undo(self, run: Run) -> None:
        if run.has_fact("drop_in_was") and run.fact("drop_in_was") is not None:
            text = str(run.fact("drop_in_was"))
            await in_thread(durable.make_directory, self.drop_in.parent, 0o755)
            await in_thread(durable.write, self.drop_in, text.encode())


def write_drop_in(path: Path) -> None:
    durable.make_directory(path.parent, 0o755)
    durable.write(path, cluster_init_drop_in())


def remove_drop_in(path: Path, directory_too: bool) -> None:
    """Remove the file, and the directory when it is ours and empty. Safe to run twice."""
    durable.remove(path)
    if directory_too:
        durable.remove_directory_if_empty(path.parent)
