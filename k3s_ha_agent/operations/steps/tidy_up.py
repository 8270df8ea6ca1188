"""After the commitment: nothing of the old datastore stays where k3s could pick it up."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from k3s_ha_agent.errors import StepFailed
from k3s_ha_agent.k3s.etcd import EtcdClient
from k3s_ha_agent.k3s.layout import Layout
from k3s_ha_agent.operations import pre_image
from k3s_ha_agent.operations.datastore_files import retire_sqlite
from k3s_ha_agent.operations.plan import Run
from k3s_ha_agent.operations.threads import in_thread


@dataclasses.dataclass(frozen=True, slots=True)
class RetireSqlite:
    """A ``state.db`` left behind would be copied into a new etcd after a later accident (k3s-facts R4);
    a stale ``state.db.migrated`` would fool the next migration ("ten facts" 4)."""

    layout: Layout

    name: str = "retire-sqlite"
    resumable: bool = True
    on_disk: str = "etcd is committed; state.db.migrated and its WAL lie in server/db or in the quarantine."
    by_hand: str = "Move state.db.migrated, state.db-wal and state.db-shm out of server/db."

    async def do(self, run: Run) -> None:
        await in_thread(retire_sqlite, self.layout, self.layout.quarantine / run.operation.id)

    async def verify(self, run: Run) -> None:
        left = [p for p in (self.layout.state_db, self.layout.state_db_migrated) if p.exists()]
        if left:
            raise StepFailed(f"{left[0]} is still in server/db.")

    async def undo(self, run: Run) -> None:
        """Never called: the step comes after the commitment."""


@dataclasses.dataclass(frozen=True, slots=True)
class DropOldQuarantine:
    """What earlier operations moved aside is kept until the next success: this one."""

    layout: Layout

    name: str = "drop-old-quarantine"
    resumable: bool = True
    on_disk: str = "Committed; quarantines of earlier operations are there or not."
    by_hand: str = "Nothing."

    async def do(self, run: Run) -> None:
        await in_thread(pre_image.remove_other_directories, self.layout.quarantine, run.operation.id)

    async def verify(self, run: Run) -> None:
        """Nothing: removing is its own proof, and raises."""

    async def undo(self, run: Run) -> None:
        """Never called: the step comes after the commitment."""


@dataclasses.dataclass(frozen=True, slots=True)
class FirstSnapshot:
    """A snapshot of the new etcd beside the pre-image, so that the new datastore has a copy too."""

    layout: Layout
    state_dir: Path

    name: str = "first-snapshot"
    resumable: bool = True
    on_disk: str = "Committed; the snapshot is there or not."
    by_hand: str = "k3s etcd-snapshot save"

    def target(self, run: Run) -> Path:
        return pre_image.directory(self.state_dir, run.operation.id) / "etcd-snapshot.db"

    async def do(self, run: Run) -> None:
        async with EtcdClient.from_layout(self.layout) as etcd:
            await etcd.snapshot(self.target(run))

    async def verify(self, run: Run) -> None:
        if not self.target(run).stat().st_size:
            raise StepFailed("The etcd snapshot is empty.")

    async def undo(self, run: Run) -> None:
        """Never called: the step comes after the commitment."""
