"""Start k3s as a joining server; undo removes a voter while k3s still runs, then stops it."""

from __future__ import annotations

import asyncio
import dataclasses
import time

from k3s_ha_agent.errors import AgentError, StepFailed
from k3s_ha_agent.host.journald import JournalSource
from k3s_ha_agent.k3s.etcd import EtcdClient
from k3s_ha_agent.operations.k3s_health import K3sHealth, stop_and_wait_dead
from k3s_ha_agent.operations.peers import Peers
from k3s_ha_agent.operations.plan import Run
from k3s_ha_agent.operations.steps.start_k3s import StartK3s
from k3s_ha_agent.operations.threads import in_thread

NOT_NOW = ("too-many-learners", "cluster-unhealthy")
"""Signs that etcd takes no new member just now: another learner, or a member younger than five seconds. k3s before
1.26.5 dies of them (k3s-facts J6), later ones try again by themselves."""
ATTEMPTS = 12
"""Starts of k3s, five seconds and more apart: a learner is promoted on the leader's 15 s tick."""
ASK_LIMIT = 3.0
"""Seconds for the other server to say who its members are; without a quorum it hangs (k3s-facts, "Seen" 11)."""
LEAVE_LIMIT = 120.0
"""Seconds for a voter to leave."""
PROMOTION = 50.0
"""Seconds a learner is given to be promoted, so that it can leave: three ticks of the leader's 15 s (k3s-facts 4.5)."""
POLL = 2.0


@dataclasses.dataclass(frozen=True, slots=True)
class JoinCluster:
    health: K3sHealth
    journal: JournalSource
    peers: Peers
    address: str
    stop_timeout: float

    name: str = "join-cluster"
    resumable: bool = True
    on_disk: str = (
        "k3s is fetching the cluster's certificates, or is a learner, or a voter. The gate keeps it from starting "
        "anywhere but in this cluster."
    )
    by_hand: str = "On another server: kubectl delete node of this server; then stop k3s here."

    async def do(self, run: Run) -> None:
        follower = asyncio.ensure_future(self._follow_members(run))
        try:
            for attempt in range(1, ATTEMPTS + 1):
                try:
                    await self._start().do(run)
                    return
                except StepFailed as error:
                    last = attempt == ATTEMPTS or error.extensions.get("sign") not in NOT_NOW
                    if last or await self.peers.gone(self.address) is not True:
                        raise
                    run.decide("etcd takes no new member just now; k3s is started again in a moment.")
                    await stop_and_wait_dead(self.health, self.stop_timeout)
                    await run.forget("invocation_id")
                    await asyncio.sleep(5.0)
        finally:
            follower.cancel()
            await asyncio.gather(follower, return_exceptions=True)

    def _start(self) -> StartK3s:
        return StartK3s(self.health, self.journal, self.stop_timeout, expects_copy=False, joins=True)

    async def _follow_members(self, run: Run) -> None:
        """Say when this server becomes a learner, and when a voter."""
        said = ""
        began = time.monotonic()
        while True:
            try:
                ours = await self.peers.our_member(self.address)
            except AgentError as error:
                now = f"the cluster does not say who its members are ({error.detail})"
            else:
                now = "no member yet" if ours is None else "a learner" if ours.is_learner else "a voter"
            if now != said:
                run.decide(f"This server is {now}." if now.startswith(("a ", "no ")) else f"{now}.")
                said = now
            if said == "a learner":
                run.progress(int(time.monotonic() - began), 30, "seconds")
            await asyncio.sleep(POLL)

    async def verify(self, run: Run) -> None:
        await self._start().verify(run)

    async def undo(self, run: Run) -> None:
        """Stopped first, a second voter of two would take the quorum with it (k3s-facts J11): so a voter leaves
        while its etcd runs, and one that is dead is started once more for that.

        So does a learner: etcd promotes one that has caught up whether it lives or not (k3s-facts 4.9). It may not
        ask anything of its own etcd before it votes, so it runs until then. One that never started etcd has nothing
        and is not promoted.
        """
        while True:
            started = await in_thread(self.health.layout.etcd_member_wal.exists)
            if started:
                await self._leave(run)
            await stop_and_wait_dead(self.health, self.stop_timeout)
            if started or not await in_thread(self.health.layout.etcd_member_wal.exists):
                return

    async def _leave(self, run: Run) -> None:
        began = time.monotonic()
        limit = min(LEAVE_LIMIT, run.remaining() / 2)
        while time.monotonic() < began + limit:
            if await in_thread(self.health.layout.tombstone.exists):
                run.decide("This server's etcd has left the cluster already.")
                return  # started again, k3s would join again (k3s-facts 4.1)
            now = await self._what_we_are()
            if now == "gone":
                return
            if now == "learner" and time.monotonic() > began + min(PROMOTION, limit / 2):
                run.decide("This server's learner is not promoted, so it stops; the cluster is asked to drop it.")
                return
            state = await self.health.state()
            if not state.main_pid and state.active_state in ("inactive", "failed"):
                run.decide("This server may get a vote and its k3s is dead; it is started once more to leave in order.")
                await self.health.units.reset_failed(self.health.unit)
                await self.health.units.start_unit(self.health.unit)
            # It may live for a moment only: asked often, and nobody else is asked meanwhile.
            for _ in range(25):
                if await self._remove_ourselves():
                    run.decide("This server's etcd has left the cluster.")
                    break
                await asyncio.sleep(0.2)
        raise StepFailed(
            "This server may still be a voter of the cluster, and its etcd cannot be brought to leave.",
            next_step=f"On another server: kubectl annotate node {self.peers.node_name} etcd.k3s.cattle.io/remove=true",
        )

    async def _what_we_are(self) -> str:
        """``gone``, ``learner`` or ``voter`` as the other server says; ``unknown`` when it cannot say: no quorum?"""
        try:
            async with asyncio.timeout(ASK_LIMIT):
                member = await self.peers.our_member(self.address)
        except (AgentError, TimeoutError):
            return "unknown"
        return "gone" if member is None else "learner" if member.is_learner else "voter"

    async def _remove_ourselves(self) -> bool:
        """Remove our own member through our own etcd, which needs nobody's API server but a quorum."""
        layout = self.health.layout
        try:
            name = (await in_thread(layout.etcd_name.read_text)).strip()
            async with EtcdClient.from_layout(layout, timeout=3.0) as etcd:
                for member in await etcd.members():
                    if member.name == name and not member.is_learner:
                        await etcd.member_remove(member.id)
                        return True
        except (AgentError, OSError):
            return False  # asked again until the limit
        return False
