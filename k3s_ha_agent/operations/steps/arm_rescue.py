"""Arm the rescue: a transient timer that brings the node back whatever became of the agent."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from k3s_ha_agent.errors import StepFailed
from k3s_ha_agent.host.units import Units
from k3s_ha_agent.k3s.layout import Layout
from k3s_ha_agent.operations import gate
from k3s_ha_agent.operations.plan import Run
from k3s_ha_agent.operations.threads import in_thread
from k3s_ha_agent.settings import RESCUE_SERVICE, RESCUE_TIMER

NOTHING = "none"
"""The goal of a join's rescue: the server as it was, without a datastore."""
MARGIN = 30.0
"""Seconds between the last moment in which the agent would act and the rescue."""


@dataclasses.dataclass(frozen=True, slots=True)
class ArmRescue:
    """``goal`` is the datastore the rescue brings back: the one the node is on now."""

    units: Units
    layout: Layout
    unit: str
    systemd_dir: Path
    drop_in: Path
    quarantine_of: Path
    """Parent of the operation's quarantine directory."""
    goal: str
    timeout: float
    """Seconds for the way forward."""
    undo_timeout: float
    token_file: Path | None = None
    """Of a join: what else is ours and must go."""

    name: str = "arm-rescue"
    resumable: bool = True
    on_disk: str = "Nothing of k3s has changed. The rescue timer may run; it lives in memory and ends with a reboot."
    by_hand: str = "systemctl stop k3s-ha-agent-rescue.timer"

    async def do(self, run: Run) -> None:
        await run.set_deadline(self.timeout)
        if not run.operation.rescue:
            state = await self.units.state(self.unit)
            more = {} if self.token_file is None else {"token_file": str(self.token_file)}
            more["unit_file_state"] = state.unit_file_state
            await run.set_rescue(**await in_thread(self._rescue, run), **more)
        await self.units.start_transient_timer(
            RESCUE_TIMER,
            after=self.timeout + self.undo_timeout + MARGIN,
            description=f"Rescues k3s (goal: {self.goal}) if {run.operation.kind} {run.operation.id} does not end",
        )
        back = "k3s is stopped and made as it was" if self.goal == NOTHING else f"k3s is brought back to {self.goal}"
        run.decide(f"{back} if the {run.operation.kind} has not ended by {run.operation.deadline}.")

    def _rescue(self, run: Run) -> dict[str, Any]:
        content = self.drop_in.read_text() if self.drop_in.exists() else None
        return {
            "goal": self.goal,
            "unit": self.unit,
            "gate": str(gate.path(self.systemd_dir, self.unit)),
            "drop_in": str(self.drop_in),
            "drop_in_content": content,
            "db": str(self.layout.db),
            "quarantine": str(self.quarantine_of / run.operation.id),
        }

    async def verify(self, run: Run) -> None:
        state = await self.units.state(RESCUE_TIMER)
        if state.active_state != "active":
            raise StepFailed(
                f"The rescue timer is {state.active_state}, not active.",
                next_step=f"Look at systemctl status {RESCUE_TIMER} and {RESCUE_SERVICE}.",
            )

    async def undo(self, run: Run) -> None:
        await disarm(self.units)


@dataclasses.dataclass(frozen=True, slots=True)
class DisarmRescue:
    """After the commitment."""

    units: Units

    name: str = "disarm-rescue"
    resumable: bool = True
    on_disk: str = (
        "The new datastore is committed; a rescue that still fires reads that in the record and does nothing."
    )
    by_hand: str = "systemctl stop k3s-ha-agent-rescue.timer"

    async def do(self, run: Run) -> None:
        await disarm(self.units)

    async def verify(self, run: Run) -> None:
        state = await self.units.state(RESCUE_TIMER)
        if state.active_state == "active":
            raise StepFailed("The rescue timer is still active.")

    async def undo(self, run: Run) -> None:
        """Never called: the step comes after the commitment."""


async def disarm(units: Units) -> None:
    """Stop the timer; one that is gone (fired, rebooted) is as good."""
    state = await units.state(RESCUE_TIMER)
    if state.load_state != "not-found" and state.active_state != "inactive":
        job = await units.stop_unit(RESCUE_TIMER)
        await job.wait(20.0)
