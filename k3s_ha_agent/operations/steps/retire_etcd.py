"""Take etcd's directory out of the way; undo puts it back. A rename, so etcd stays whole."""

from __future__ import annotations

import dataclasses

from k3s_ha_agent.errors import StepFailed
from k3s_ha_agent.k3s.layout import Layout
from k3s_ha_agent.operations.datastore_files import put_back_etcd, retire_etcd
from k3s_ha_agent.operations.k3s_health import K3sHealth, require_dead, stop_and_wait_dead
from k3s_ha_agent.operations.plan import Run
from k3s_ha_agent.operations.threads import in_thread


@dataclasses.dataclass(frozen=True, slots=True)
class RetireEtcd:
    health: K3sHealth
    stop_timeout: float
    """Seconds."""

    name: str = "retire-etcd"
    resumable: bool = True
    on_disk: str = (
        "k3s is stopped; db/etcd is in place or whole in the quarantine. With neither datastore in place "
        "the gate keeps k3s from beginning an empty cluster."
    )
    by_hand: str = "systemctl start k3s-ha-agent-rescue.service moves db/etcd back."

    @property
    def layout(self) -> Layout:
        return self.health.layout

    async def do(self, run: Run) -> None:
        await require_dead(self.health)
        await in_thread(retire_etcd, self.layout, self.layout.quarantine / run.operation.id)

    async def verify(self, run: Run) -> None:
        if self.layout.etcd_member_wal.exists():
            raise StepFailed(f"{self.layout.etcd_member_wal} is still there.")
        if not (self.layout.quarantine / run.operation.id / self.layout.etcd.name).exists():
            raise StepFailed("db/etcd is not in the quarantine.")

    async def undo(self, run: Run) -> None:
        await stop_and_wait_dead(self.health, self.stop_timeout)  # whoever started it: a boot, or a person
        await in_thread(put_back_etcd, self.layout, self.layout.quarantine / run.operation.id)
        run.evidence("etcd-restored", self.layout.etcd_member_wal.exists(), f"{self.layout.etcd} is back in place")
