"""Changes of etcd's membership: announcing a join, becoming a voter, leaving."""

from __future__ import annotations

import asyncio
import dataclasses
import time

from k3s_ha_agent.errors import AgentError, ApiserverError, Conflict, StepFailed, SupervisorError, TokenError
from k3s_ha_agent.operations import join_lock
from k3s_ha_agent.operations.k3s_health import until
from k3s_ha_agent.operations.peers import Peers, require_quorum_without
from k3s_ha_agent.operations.plan import Run

STALLED = 420.0
"""Seconds: k3s removes a learner that does not catch up after 5 minutes (k3s-facts 4.5), looking every 15 s."""
LOCK_EXTRA = 600.0
"""Seconds the lock outlives the deadline: the way back changes the membership too."""
UNDO_LIMIT = 120.0
"""Seconds for the cluster to say, on the way back from a removal, whether it has happened."""
CONFIRM_LIMIT = 30.0
"""Seconds for a server behind the same address to learn of the removal that another one confirmed."""
RELEASE_LIMIT = 20.0
"""Seconds for giving the lock back on the way back: an election of a new leader may be under way."""


@dataclasses.dataclass(frozen=True, slots=True)
class TakeLock:
    """The cluster's membership is ours to change, and no learner is pending."""

    peers: Peers
    address: str
    wait: bool
    """Wait for another join to end, instead of being refused."""
    timeout: float

    name: str = "take-lock"
    resumable: bool = True
    on_disk: str = "Nothing here. A ConfigMap of the cluster may name this server; it runs out by itself."
    by_hand: str = "Nothing; or delete the ConfigMap kube-system/k3s-ha-agent-membership."

    async def do(self, run: Run) -> None:
        while True:
            try:
                await self._take(run)
                return
            except Conflict as error:
                if not self.wait:
                    raise StepFailed(error.detail, next_step=error.next_step) from error
                run.decide(f"Waiting: {error.detail}")
                await asyncio.sleep(5.0)

    async def _take(self, run: Run) -> None:
        holder = f"{self.peers.node_name} {run.operation.id}"
        async with await self.peers.api() as api:
            await join_lock.acquire(api, holder, self.timeout + LOCK_EXTRA)
        learners = [m for m in await self.peers.members() if m.is_learner]
        if any(not self.peers.is_ours(m, self.address) for m in learners):
            raise Conflict(
                f"{learners[0].name or learners[0].peer_urls[0]} is a learner that is not promoted yet; "
                "etcd takes one at a time.",
                next_step="Wait until it is a voter; a dead one is removed by k3s after 5 minutes.",
            )

    async def verify(self, run: Run) -> None:
        """Nothing: the write under the resourceVersion is the proof."""

    async def undo(self, run: Run) -> None:
        """A cluster that does not answer any more keeps a lock that runs out by itself: no failure of the way back."""
        end = time.monotonic() + RELEASE_LIMIT
        while True:
            try:
                async with await self.peers.api() as api:
                    await join_lock.release(api, f"{self.peers.node_name} {run.operation.id}")
                return
            except AgentError as error:
                if time.monotonic() > end:
                    run.decide(f"The lock of the cluster is not given back and runs out by itself: {error.detail}")
                    return
            await asyncio.sleep(2.0)


@dataclasses.dataclass(frozen=True, slots=True)
class ReleaseLock:
    """After the commitment."""

    peers: Peers

    name: str = "release-lock"
    resumable: bool = True
    on_disk: str = "Committed; the ConfigMap of the cluster may still name this server, and runs out by itself."
    by_hand: str = "Nothing; or delete the ConfigMap kube-system/k3s-ha-agent-membership."

    async def do(self, run: Run) -> None:
        async with await self.peers.api() as api:
            await join_lock.release(api, f"{self.peers.node_name} {run.operation.id}")

    async def verify(self, run: Run) -> None:
        """Nothing: safe to be late."""

    async def undo(self, run: Run) -> None:
        """Never called: the step comes after the commitment."""


@dataclasses.dataclass(frozen=True, slots=True)
class Announce:
    """From here on the cluster may hold a member of ours. Undo sees to it that none is left.

    A dead voter in a cluster of two stops it (k3s-facts J11), so a voter is removed while k3s still
    runs (``JoinCluster.undo``); what is left here is a learner or a server whose k3s never came up.
    """

    peers: Peers
    address: str

    name: str = "announce"
    resumable: bool = True
    on_disk: str = "Nothing here; no member of this server is in the cluster yet."
    by_hand: str = "On another server: delete the Node of this server; k3s removes its member."

    async def do(self, run: Run) -> None:
        members = await self.peers.members()
        if any(self.peers.is_ours(m, self.address) for m in members) and not run.has_fact("members_before"):
            raise StepFailed(
                f"The cluster already has a member {self.peers.node_name}-….",
                next_step=f"On another server: kubectl delete node {self.peers.node_name}, then ask again.",
            )
        if not run.has_fact("members_before"):
            await run.remember(members_before=[{"id": str(m.id), "name": m.name} for m in members])

    async def verify(self, run: Run) -> None:
        """Nothing changed yet."""

    async def undo(self, run: Run) -> None:
        if not run.has_fact("members_before"):
            return
        await remove_member(self.peers, self.address, run)
        await delete_node(self.peers, run, run.remaining())
        run.evidence("back-member-gone", True, f"{self.peers.url} lists no member and no Node of this server")


async def delete_node(peers: Peers, run: Run, timeout: float) -> None:
    """Have no Node and no password Secret of ours in the cluster, which may be electing a leader just now.

    DeadlineExceeded when they are still there, or nobody can say, after ``timeout`` seconds.
    """
    told = ""

    async def deleted() -> bool | None:
        nonlocal told
        try:
            return True if await peers.delete_node() else None
        except AgentError as error:
            if error.detail != told:
                told = error.detail
                run.decide(f"The Node of this server is not deleted yet: {told}")
            return None

    await until(deleted, timeout=timeout, what="The deletion of our Node", pause=2.0)


async def remove_member(peers: Peers, address: str, run: Run) -> None:
    """Have no member of ours in the cluster: by annotation when there is a Node, else k3s evicts the learner.

    DeadlineExceeded when it stays.
    """
    asked = last = 0.0
    end = time.monotonic() + min(STALLED, run.remaining())
    while await peers.gone(address) is not True:
        now = time.monotonic()
        if now >= end:
            raise StepFailed(
                "The cluster still lists a member of this server.",
                next_step=f"On another server: kubectl annotate node {peers.node_name} etcd.k3s.cattle.io/remove=true",
            )
        if now - asked > 30.0 or not asked:
            asked = now
            try:
                if await peers.ask_removal():
                    run.decide("Asked k3s on another server to remove our etcd member.")
            except (ApiserverError, SupervisorError, TokenError) as error:
                run.decide(f"Cannot ask for the removal of our member yet: {error.detail}")
        if now - last > 15.0:
            last = now
            run.decide("Waiting until the cluster lists no member of this server.")
        await asyncio.sleep(1.0)


@dataclasses.dataclass(frozen=True, slots=True)
class RemoveMember:
    """A server leaves: its voter is removed while its k3s still runs. The point of no return of a leave."""

    peers: Peers
    address: str

    name: str = "remove-member"
    resumable: bool = True
    on_disk: str = "This server is a member or no longer one; the gate keeps its k3s from starting again."
    by_hand: str = "On another server: kubectl delete node of this server; then stop k3s here."

    async def do(self, run: Run) -> None:
        ours = await self.peers.our_member(self.address)
        if ours is not None:
            members = await self.peers.members()
            await require_quorum_without(members, ours)
            await remove_member(self.peers, self.address, run)
        run.evidence("member-gone", True, f"{self.peers.url} lists no member of this server")

    async def verify(self, run: Run) -> None:
        """Asked once more; no answer is none: the cluster may be electing a leader, and ``do`` had its word."""

        async def confirmed() -> bool | None:
            try:
                return True if await self.peers.our_member(self.address) is None else None
            except AgentError as error:
                run.decide(f"The cluster does not answer just now; its last word was that we are out: {error.detail}")
                return True

        await until(confirmed, timeout=CONFIRM_LIMIT, what="A list of members without this server", pause=1.0)

    async def undo(self, run: Run) -> None:
        async def settled() -> str | None:
            try:
                if await self.peers.our_member(self.address) is None:
                    return "removed"
                await self.peers.withdraw_removal()
            except AgentError as error:
                run.decide(f"Whether the member of this server is removed cannot be known yet: {error.detail}")
                return None
            return "member"

        limit = min(UNDO_LIMIT, run.remaining())
        if await until(settled, timeout=limit, what="An answer of the cluster", pause=2.0) == "removed":
            raise StepFailed(
                "The member of this server is already removed; it cannot go back, only on.",
                next_step="Ask for the rollback again: it finishes what is left.",
            )
