"""What a server does once its member is removed, and what it looks at before."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from k3s_ha_agent import durable
from k3s_ha_agent.errors import StepFailed
from k3s_ha_agent.host.units import Units
from k3s_ha_agent.operations.k3s_health import K3sHealth, stop_and_wait_dead
from k3s_ha_agent.operations.peers import Peers, require_quorum_without
from k3s_ha_agent.operations.plan import Run
from k3s_ha_agent.operations.steps.enable_etcd import remove_drop_in
from k3s_ha_agent.operations.steps.enable_unit import disable_if_it_was
from k3s_ha_agent.operations.steps.membership import delete_node
from k3s_ha_agent.operations.threads import in_thread

NODE_LIMIT = 60.0
"""Seconds for the rest of the cluster to let our Node go."""


@dataclasses.dataclass(frozen=True, slots=True)
class CheckLeave:
    peers: Peers
    address: str

    name: str = "check-leave"
    resumable: bool = True
    on_disk: str = "Nothing has changed; this server is a member."
    by_hand: str = "Nothing."

    async def do(self, run: Run) -> None:
        members = await self.peers.members()
        ours = await self.peers.our_member(self.address)
        if ours is None:
            run.decide(f"{self.peers.url} lists no member of this server any more; what is left here is tidied up.")
        else:
            await require_quorum_without(members, ours)
        async with await self.peers.api() as api:
            ready = await api.readyz()
        run.evidence(
            "rest-answers", bool(ready), f"{self.peers.url}: {ready.reason}", "the rest of the cluster is ready"
        )

    async def verify(self, run: Run) -> None:
        """Nothing: it is all in do."""

    async def undo(self, run: Run) -> None:
        """Nothing: looking changes nothing."""


@dataclasses.dataclass(frozen=True, slots=True)
class StopForGood:
    health: K3sHealth
    stop_timeout: float

    name: str = "stop-k3s"
    resumable: bool = True
    on_disk: str = "The member is removed; k3s runs without a datastore or has ended."
    by_hand: str = "systemctl stop k3s"

    async def do(self, run: Run) -> None:
        await stop_and_wait_dead(self.health, self.stop_timeout)

    async def verify(self, run: Run) -> None:
        if (await self.health.state()).main_pid:
            raise StepFailed(f"{self.health.unit} still has a main process.")

    async def undo(self, run: Run) -> None:
        """Never called: the step comes after the commitment."""


@dataclasses.dataclass(frozen=True, slots=True)
class ForgetNode:
    """The Node object and its password Secret, so that this server, or another of its name, can join again."""

    peers: Peers

    name: str = "forget-node"
    resumable: bool = True
    on_disk: str = "The member is removed and k3s stopped; the Node is in the cluster or not."
    by_hand: str = "On another server: kubectl delete node of this server, and its node-password Secret in kube-system."

    async def do(self, run: Run) -> None:
        await delete_node(self.peers, run, NODE_LIMIT)
        run.evidence("node-gone", True, f"{self.peers.url} has no Node {self.peers.node_name}")

    async def verify(self, run: Run) -> None:
        """Nothing: do ends only when it is gone."""

    async def undo(self, run: Run) -> None:
        """Never called: the step comes after the commitment."""


@dataclasses.dataclass(frozen=True, slots=True)
class Unconfigure:
    """Our files go, and the unit is enabled only if it was before the join."""

    units: Units
    unit: str
    drop_in: Path
    token_file: Path
    unit_file_state_before: str

    name: str = "unconfigure"
    resumable: bool = True
    on_disk: str = "The server has left; our drop-in and token file are there or not."
    by_hand: str = "Remove our drop-in and the token file, disable the unit."

    async def do(self, run: Run) -> None:
        await in_thread(remove_drop_in, self.drop_in, True)
        await in_thread(durable.remove, self.token_file)
        await disable_if_it_was(self.units, self.unit, self.unit_file_state_before)

    async def verify(self, run: Run) -> None:
        if self.drop_in.exists() or self.token_file.exists():
            raise StepFailed(f"{self.drop_in} or {self.token_file} is still there.")

    async def undo(self, run: Run) -> None:
        """Never called: the step comes after the commitment."""
