"""Put the sealed pre-image of an earlier migration in place."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from k3s_ha_agent.errors import StepFailed
from k3s_ha_agent.k3s.layout import Layout
from k3s_ha_agent.operations.datastore_files import put_back_sqlite, remove_temporary, retire_sqlite, sha256_of
from k3s_ha_agent.operations.k3s_health import K3sHealth, require_dead, stop_and_wait_dead
from k3s_ha_agent.operations.plan import Run
from k3s_ha_agent.operations.threads import in_thread


@dataclasses.dataclass(frozen=True, slots=True)
class RestoreSqlite:
    health: K3sHealth
    stop_timeout: float
    """Seconds."""

    name: str = "restore-sqlite"
    resumable: bool = True
    on_disk: str = "k3s is stopped, etcd is whole in the quarantine, state.db is absent or the whole sealed pre-image."
    by_hand: str = "systemctl start k3s-ha-agent-rescue.service moves db/etcd back."

    @property
    def layout(self) -> Layout:
        return self.health.layout

    async def do(self, run: Run) -> None:
        await require_dead(self.health)
        await in_thread(
            put_back_sqlite,
            self.layout,
            Path(run.fact("sealed")),
            run.fact("sealed_sha256"),
            self.layout.quarantine / run.operation.id,
        )

    async def verify(self, run: Run) -> None:
        found = await in_thread(sha256_of, self.layout.state_db)
        ok = found == run.fact("sealed_sha256") and not self.layout.state_db_wal.exists()
        run.evidence("data-equal", ok, f"state.db has SHA-256 {found[:16]}…, no WAL beside it", "the sealed pre-image")

    async def undo(self, run: Run) -> None:
        """Take SQLite out of the way; etcd's directory is put back by the step before."""
        await stop_and_wait_dead(self.health, self.stop_timeout)  # whoever started it: a boot, or a person
        await in_thread(remove_temporary, self.layout)
        await in_thread(retire_sqlite, self.layout, self.layout.quarantine / run.operation.id / "sqlite")
        if self.layout.state_db.exists():
            raise StepFailed(f"{self.layout.state_db} is still there.")
