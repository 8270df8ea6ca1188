"""The evidence stays true for the stability window."""

from __future__ import annotations

import asyncio
import dataclasses
import time

from k3s_ha_agent.errors import StepFailed
from k3s_ha_agent.model import Datastore
from k3s_ha_agent.operations.k3s_health import ETCD_ROLE, K3sHealth
from k3s_ha_agent.operations.plan import Run

POLL = 1.0
TOLERATED = 10.0
"""Seconds the API server may be silent before it counts as gone: one slow answer is no failure."""


@dataclasses.dataclass(frozen=True, slots=True)
class HoldStill:
    health: K3sHealth
    expected: Datastore
    window: float
    """Seconds."""

    name: str = "hold-still"
    resumable: bool = True
    on_disk: str = "k3s runs on the proven new datastore; nothing is committed yet."
    by_hand: str = "Start the agent: it holds still once more and commits, or rolls back."

    async def do(self, run: Run) -> None:
        began = last_good = time.monotonic()
        while True:
            state = await self.health.require_unbroken_run(run.fact("invocation_id"))
            if state.active_state != "active":
                raise StepFailed(f"{self.health.unit} became {state.active_state}.")
            if await self._well():
                last_good = time.monotonic()
            elif time.monotonic() - last_good > TOLERATED:
                run.evidence("stable", False, "the API server or the role was gone", f"well for {self.window:.0f} s")
            elapsed = time.monotonic() - began
            run.progress(int(min(elapsed, self.window)), int(self.window), "seconds")
            if elapsed >= self.window and last_good > began + self.window - TOLERATED and await self._well():
                break
            if elapsed >= self.window + TOLERATED:
                run.evidence("stable", False, "the API server or the role was gone", f"well for {self.window:.0f} s")
            await asyncio.sleep(min(POLL, max(0.05, self.window - elapsed)))
        run.evidence("stable", True, f"well for {self.window:.0f} s, no restart")

    async def _well(self) -> bool:
        if await self.health.api_ready() is None:
            return False
        node = await self.health.node()
        return node is not None and (ETCD_ROLE in node.roles) == (self.expected is Datastore.ETCD)

    async def verify(self, run: Run) -> None:
        await self.health.require_unbroken_run(run.fact("invocation_id"))

    async def undo(self, run: Run) -> None:
        """Nothing: holding still changes nothing."""
