"""k3s starts at boot, because a server that joined must come back; undo makes it as it was."""

from __future__ import annotations

import dataclasses

from k3s_ha_agent.errors import StepFailed
from k3s_ha_agent.host.units import Units
from k3s_ha_agent.operations.plan import Run

ENABLED = ("enabled", "enabled-runtime", "static", "alias", "indirect")


@dataclasses.dataclass(frozen=True, slots=True)
class EnableUnit:
    units: Units
    unit: str

    name: str = "enable-unit"
    resumable: bool = True
    on_disk: str = "k3s has not been started; its unit is enabled or not."
    by_hand: str = "systemctl disable the unit if it was disabled before."

    async def do(self, run: Run) -> None:
        state = await self.units.state(self.unit)
        if not run.has_fact("unit_file_state_before"):
            await run.remember(unit_file_state_before=state.unit_file_state)
        if state.unit_file_state not in ENABLED:
            await self.units.enable(self.unit)

    async def verify(self, run: Run) -> None:
        state = await self.units.state(self.unit)
        if state.unit_file_state not in ENABLED:
            raise StepFailed(f"{self.unit} is {state.unit_file_state}, not enabled.")

    async def undo(self, run: Run) -> None:
        if run.has_fact("unit_file_state_before"):
            await disable_if_it_was(self.units, self.unit, str(run.fact("unit_file_state_before")))


async def disable_if_it_was(units: Units, unit: str, before: str) -> None:
    if before not in ENABLED:
        await units.disable(unit)
