"""Prove that this server is a full member, from its own side and from the other's."""

from __future__ import annotations

import dataclasses

from k3s_ha_agent.errors import AgentError, DeadlineExceeded
from k3s_ha_agent.k3s.etcd import EtcdClient
from k3s_ha_agent.operations.k3s_health import K3sHealth, until
from k3s_ha_agent.operations.peers import Peers
from k3s_ha_agent.operations.plan import Run


@dataclasses.dataclass(frozen=True, slots=True)
class ProveJoin:
    health: K3sHealth
    peers: Peers
    address: str
    role_timeout: float

    name: str = "prove"
    resumable: bool = True
    on_disk: str = "k3s runs as a member of the cluster; nothing is committed yet."
    by_hand: str = "Start the agent: it proves, or leaves the cluster again."

    async def do(self, run: Run) -> None:
        limit = min(self.role_timeout, run.remaining())
        there = await self.peers.elsewhere(self.address, self.health.api_port)
        await self._voter(run, limit, there)
        await self._api(run, limit)
        await self._same_cluster(run, there)
        await self._node(run, limit, there)
        await self.health.require_unbroken_run(run.fact("invocation_id"))

    async def _voter(self, run: Run, limit: float, peers: Peers) -> None:
        async def voter() -> str | None:
            try:
                member = await peers.our_member(self.address)
            except AgentError:
                return None
            return member.name if member is not None and member.name and not member.is_learner else None

        try:
            name = await until(voter, timeout=limit, what="This server's voter in the list of the other server")
        except DeadlineExceeded as error:
            run.evidence("voter-seen-from-peer", False, error.detail, "a voter")
            raise
        run.evidence("voter-seen-from-peer", True, f"{peers.url} lists {name} as a voter")

    async def _api(self, run: Run, limit: float) -> None:
        try:
            await self.health.wait_api_ready(limit)
        except DeadlineExceeded as error:
            run.evidence("api-ready", False, error.detail, "/readyz ok")
        run.evidence("api-ready", True, "/readyz answers ok here")

    async def _same_cluster(self, run: Run, peers: Peers) -> None:
        """The same members on both sides, and our etcd answers with the consent of the others.

        A range that is not serializable is answered only after a round through the quorum, so that our etcd
        has everything that was committed before it was asked.
        """
        theirs = {str(m.id) for m in await peers.members()}
        async with EtcdClient.from_layout(self.health.layout) as etcd:
            ours = {str(m.id) for m in await etcd.members()}
            revision = await etcd.revision()
            keys = await etcd.count(b"/registry/")
            alarms = await etcd.alarms()
        run.evidence("same-members", ours == theirs, f"{len(ours)} here, {len(theirs)} there", "the same members")
        run.evidence("same-data", keys > 0, f"{keys} keys at revision {revision}, read through the quorum", "keys")
        run.evidence("no-alarms", not alarms, ", ".join(alarms) or "no alarm", "no alarm")
        await run.remember(report={"members": len(ours), "revision": revision, "keys": keys})

    async def _node(self, run: Run, limit: float, peers: Peers) -> None:
        async def role() -> str | None:
            try:
                node = await peers.node()
            except AgentError:
                return None
            return ", ".join(node.roles) if node is not None and "etcd" in node.roles else None

        try:
            roles = await until(role, timeout=limit, what="The etcd role on our Node")
        except DeadlineExceeded as error:
            run.evidence("etcd-role", False, error.detail, "a Node with the etcd role")
            raise
        run.evidence("etcd-role", True, f"{peers.url} has Node {peers.node_name} with the roles {roles}")

    async def verify(self, run: Run) -> None:
        await self.health.require_unbroken_run(run.fact("invocation_id"))

    async def undo(self, run: Run) -> None:
        """Nothing: proving changes nothing."""
