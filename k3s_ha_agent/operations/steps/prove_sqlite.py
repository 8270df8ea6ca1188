"""Prove that k3s is well on the restored SQLite. The data was proven at rest, before the start."""

from __future__ import annotations

import dataclasses

from k3s_ha_agent.errors import DeadlineExceeded
from k3s_ha_agent.k3s.layout import datastore
from k3s_ha_agent.model import Datastore
from k3s_ha_agent.operations.k3s_health import ETCD_ROLE, K3sHealth, until
from k3s_ha_agent.operations.plan import Run
from k3s_ha_agent.operations.threads import in_thread


@dataclasses.dataclass(frozen=True, slots=True)
class ProveSqlite:
    health: K3sHealth
    role_timeout: float

    name: str = "prove"
    resumable: bool = True
    on_disk: str = "k3s runs on the restored SQLite; etcd is whole in the quarantine."
    by_hand: str = "Start the agent: it proves or goes back. Or: systemctl start k3s-ha-agent-rescue.service"

    async def do(self, run: Run) -> None:
        limit = min(self.role_timeout, run.remaining())
        await self.health.require_unbroken_run(run.fact("invocation_id"))  # one that is dead need not be waited for
        verdict, sentence = await in_thread(datastore, self.health.layout)
        run.evidence("on-sqlite", verdict is Datastore.SQLITE, sentence, "SQLite alone")
        try:
            await self.health.wait_api_ready(limit)
        except DeadlineExceeded as error:
            run.evidence("api-ready", False, error.detail, "/readyz ok")
        run.evidence("api-ready", True, "/readyz answers ok")
        try:
            roles = await until(self._roles_without_etcd, timeout=limit, what="The Node without the etcd role")
        except DeadlineExceeded as error:
            run.evidence("etcd-role-gone", False, error.detail, "no etcd role")
            raise
        run.evidence("etcd-role-gone", True, f"Node {self.health.node_name} has the roles {', '.join(roles) or 'none'}")
        await self.health.require_unbroken_run(run.fact("invocation_id"))

    async def _roles_without_etcd(self) -> tuple[str, ...] | None:
        node = await self.health.node()
        return node.roles if node is not None and ETCD_ROLE not in node.roles else None

    async def verify(self, run: Run) -> None:
        await self.health.require_unbroken_run(run.fact("invocation_id"))

    async def undo(self, run: Run) -> None:
        """Nothing: proving changes nothing."""
