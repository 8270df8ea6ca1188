"""Check the pre-image of the migration to be undone, before anything is touched."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from k3s_ha_agent.errors import StepFailed
from k3s_ha_agent.k3s import kine
from k3s_ha_agent.operations import pre_image
from k3s_ha_agent.operations.datastore_files import sha256_of
from k3s_ha_agent.operations.plan import Run
from k3s_ha_agent.operations.threads import in_thread


@dataclasses.dataclass(frozen=True, slots=True)
class CheckPreImage:
    sealed: Path
    sealed_sha256: str

    name: str = "check-pre-image"
    resumable: bool = True
    on_disk: str = "Nothing has changed; k3s runs on etcd."
    by_hand: str = "Nothing."

    async def do(self, run: Run) -> None:
        def check() -> kine.KineSummary:
            pre_image.verify(self.sealed.parent)
            if sha256_of(self.sealed) != self.sealed_sha256:
                raise StepFailed(f"{self.sealed} is not the pre-image that was sealed.")
            kine.check(self.sealed)
            return kine.summarize(self.sealed)

        summary = await in_thread(check)
        await run.remember(
            sealed=str(self.sealed),
            sealed_sha256=self.sealed_sha256,
            live_rows=summary.live_rows,
            max_id=summary.max_id,
        )
        run.evidence("pre-image-sound", True, f"{summary.live_rows} live keys at revision {summary.max_id}")

    async def verify(self, run: Run) -> None:
        """Nothing: it is all in do."""

    async def undo(self, run: Run) -> None:
        """Nothing: checking changes nothing."""
