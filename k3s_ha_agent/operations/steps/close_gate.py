"""Close the gate before k3s is touched, open it when the window is over."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from k3s_ha_agent import durable
from k3s_ha_agent.errors import StepFailed, SystemdError
from k3s_ha_agent.host.units import Units
from k3s_ha_agent.k3s.layout import Layout
from k3s_ha_agent.operations import gate
from k3s_ha_agent.operations.plan import Run
from k3s_ha_agent.operations.threads import in_thread


@dataclasses.dataclass(frozen=True, slots=True)
class CloseGate:
    units: Units
    layout: Layout
    unit: str
    systemd_dir: Path
    text: gate.Text = gate.text
    start_timeout: float | None = None
    """Seconds for starting k3s after the gate was opened again, should it have died behind it; None: it stays dead."""

    name: str = "close-gate"
    resumable: bool = True
    on_disk: str = "The gate's drop-in is there or not; k3s runs as before and nothing else has changed."
    by_hand: str = "Remove the gate's drop-in and run systemctl daemon-reload."

    @property
    def path(self) -> Path:
        return gate.path(self.systemd_dir, self.unit)

    async def do(self, run: Run) -> None:
        text = self.text(self.layout, run.operation.id)
        await in_thread(durable.make_directory, self.path.parent, 0o755)
        await in_thread(durable.write, self.path, text.encode(), 0o644)
        await self.units.daemon_reload()

    async def verify(self, run: Run) -> None:
        state = await self.units.state(self.unit)
        if self.path not in state.drop_in_paths or state.restart != "no":
            raise StepFailed(
                f"systemd does not honour the gate {self.path} (Restart={state.restart}).",
                next_step=f"Look at systemctl cat {self.unit}: a later drop-in may override it.",
            )

    async def undo(self, run: Run) -> None:
        await open_gate(self.units, self.path)
        if self.start_timeout is not None:
            await keep_up(self.units, self.unit, self.start_timeout)


@dataclasses.dataclass(frozen=True, slots=True)
class OpenGate:
    """After the commitment: k3s's unit is as it was."""

    units: Units
    unit: str
    systemd_dir: Path
    start_timeout: float | None = None
    """Seconds for starting k3s, should it have died behind the gate; None: it stays dead."""

    name: str = "open-gate"
    resumable: bool = True
    on_disk: str = "The new datastore is committed; the gate's drop-in may still be there."
    by_hand: str = "Remove the gate's drop-in and run systemctl daemon-reload."

    async def do(self, run: Run) -> None:
        await open_gate(self.units, gate.path(self.systemd_dir, self.unit))
        if self.start_timeout is not None:
            await keep_up(self.units, self.unit, self.start_timeout)

    async def verify(self, run: Run) -> None:
        state = await self.units.state(self.unit)
        path = gate.path(self.systemd_dir, self.unit)
        if path in state.drop_in_paths:
            raise StepFailed(f"systemd still honours the gate {path}.")

    async def undo(self, run: Run) -> None:
        """Never called: the step comes after the commitment."""


async def keep_up(units: Units, unit: str, timeout: float) -> None:
    """Start k3s when it died behind the gate, whose ``Restart=no`` kept systemd from it. SystemdError when it does
    not come up. One that somebody stopped in the ordinary way stays stopped."""
    state = await units.state(unit)
    if state.active_state != "failed":
        return
    await units.reset_failed(unit)
    job = await units.start_unit(unit)
    result = await job.wait(timeout)
    if result != "done":
        raise SystemdError(f"Starting {unit} ended as {result!r}.", next_step=f"Look at journalctl -u {unit} -n 50.")


async def open_gate(units: Units, path: Path) -> None:
    await in_thread(remove_gate, path)
    await units.daemon_reload()


def remove_gate(path: Path) -> None:
    """Remove the drop-in, and its directory when nothing else is in it. Safe to run twice."""
    durable.remove(path)
    durable.remove_directory_if_empty(path.parent)
