"""Stop k3s; undo starts it again on the datastore it came from, and proves that."""

from __future__ import annotations

import dataclasses

from k3s_ha_agent.errors import StepFailed
from k3s_ha_agent.k3s.layout import datastore
from k3s_ha_agent.model import Datastore, now
from k3s_ha_agent.operations.k3s_health import (
    ETCD_ROLE,
    K3sHealth,
    require_configuration,
    start_and_wait_active,
    stop_and_wait_dead,
    until,
)
from k3s_ha_agent.operations.plan import Run


@dataclasses.dataclass(frozen=True, slots=True)
class StopK3s:
    health: K3sHealth
    home: Datastore
    """The datastore k3s runs on now, and is brought back to."""
    stop_timeout: float
    start_timeout: float

    name: str = "stop-k3s"
    resumable: bool = True
    on_disk: str = "k3s is stopping or stopped behind the gate; its datastore and configuration are untouched."
    by_hand: str = "Remove the gate, run systemctl daemon-reload, start k3s."

    async def do(self, run: Run) -> None:
        if not run.has_fact("k3s_was_active"):
            state = await self.health.state()
            await run.remember(k3s_was_active=state.active_state == "active", stopped_at=now())
        await stop_and_wait_dead(self.health, self.stop_timeout)

    async def verify(self, run: Run) -> None:
        state = await self.health.state()
        if state.main_pid != 0:
            raise StepFailed(f"{self.health.unit} still has main process {state.main_pid}.")

    async def undo(self, run: Run) -> None:
        found, sentence = datastore(self.health.layout)
        if found is not self.home:
            raise StepFailed(
                f"Not starting k3s: {sentence} It should be on {self.home}.",
                next_step="Run: systemctl start k3s-ha-agent-rescue.service",
            )
        if (await self.health.state()).active_state != "active":
            await require_configuration(self.health, self.home)
        await start_and_wait_active(self.health, min(self.start_timeout, run.remaining()))
        await self.health.wait_api_ready(run.remaining())
        run.evidence("back-api-ready", True, "/readyz answers ok")
        if self.home is Datastore.SQLITE:
            await until(self._node_without_role, timeout=run.remaining(), what="The Node without the etcd role")
            run.evidence("back-etcd-role-gone", True, f"Node {self.health.node_name} has no etcd role")
        else:
            await until(self.health.node_with_etcd_role, timeout=run.remaining(), what="The Node with the etcd role")
            run.evidence("back-etcd-role", True, f"Node {self.health.node_name} has the etcd role")
        run.decide(f"k3s runs on {self.home} again.")

    async def _node_without_role(self) -> bool | None:
        node = await self.health.node()
        return True if node is not None and ETCD_ROLE not in node.roles else None
