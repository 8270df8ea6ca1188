"""The point of commitment: after it nothing is undone by itself."""

from __future__ import annotations

import dataclasses

from k3s_ha_agent.operations.plan import Run


@dataclasses.dataclass(frozen=True, slots=True)
class Commit:
    """Does nothing but be the point: the engine writes ``committed`` with its end."""

    sentence: str

    name: str = "commit"
    resumable: bool = True
    on_disk: str = "The record says committed or it does not; the datastore is proven either way."
    by_hand: str = "Nothing: both answers are safe. Start the agent and it finishes or rolls back."

    async def do(self, run: Run) -> None:
        run.decide(self.sentence)

    async def verify(self, run: Run) -> None:
        """Nothing: the evidence of the steps before is what is committed."""

    async def undo(self, run: Run) -> None:
        """Nothing to undo: reached only when the record could not be made durable."""
