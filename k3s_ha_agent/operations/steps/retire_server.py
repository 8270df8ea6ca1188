"""Keep the data dir's ``server`` out of k3s's sight: what a join leaves behind would be taken for a server's own."""

from __future__ import annotations

import dataclasses

from k3s_ha_agent.errors import StepFailed
from k3s_ha_agent.k3s.layout import Layout
from k3s_ha_agent.operations.datastore_files import move_aside
from k3s_ha_agent.operations.plan import Run
from k3s_ha_agent.operations.threads import in_thread


@dataclasses.dataclass(frozen=True, slots=True)
class KeepDataDir:
    """Before k3s is started to join: nothing is there that undo would take away with it."""

    layout: Layout

    name: str = "keep-data-dir"
    resumable: bool = True
    on_disk: str = "k3s has not been started; its data dir is empty."
    by_hand: str = "Nothing."

    async def do(self, run: Run) -> None:
        if self.layout.db.exists() or self.layout.token_file.exists() or self.layout.tls.exists():
            raise StepFailed(
                f"{self.layout.server} is not empty: a server's certificates or datastore are there.",
                next_step="Move it away if it is of no use, then ask again.",
            )
        await run.remember(data_dir_was_empty=True)

    async def verify(self, run: Run) -> None:
        """Nothing changed."""

    async def undo(self, run: Run) -> None:
        if run.has_fact("data_dir_was_empty"):
            await in_thread(move_aside, self.layout.server, self.layout.quarantine / run.operation.id)


@dataclasses.dataclass(frozen=True, slots=True)
class RetireServer:
    """A server that left: its certificates and datastore go to the quarantine."""

    layout: Layout

    name: str = "retire-server"
    resumable: bool = True
    on_disk: str = "The member is removed and k3s stopped; server/ is in place or in the quarantine."
    by_hand: str = "Move server/ out of the data dir."

    async def do(self, run: Run) -> None:
        await in_thread(move_aside, self.layout.server, self.layout.quarantine / run.operation.id)

    async def verify(self, run: Run) -> None:
        if self.layout.db.exists():
            raise StepFailed(f"{self.layout.db} is still there.")

    async def undo(self, run: Run) -> None:
        """Never called: the step comes after the commitment."""
