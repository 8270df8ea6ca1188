"""Bring the pre-image up to the stopped state; undo puts it back.

Whatever the WAL held when k3s died is only now certain (k3s does not checkpoint on stop,
k3s-facts, "Seen" 2). The undo of this step is the way back of a migration.
"""

from __future__ import annotations

import dataclasses
import threading
from pathlib import Path
from typing import Any

from k3s_ha_agent import durable
from k3s_ha_agent.errors import StepFailed
from k3s_ha_agent.k3s import kine
from k3s_ha_agent.k3s.layout import Layout
from k3s_ha_agent.model import to_json
from k3s_ha_agent.operations import pre_image
from k3s_ha_agent.operations.datastore_files import (
    conversion_began,
    put_back_sqlite,
    remove_temporary,
    require_unchanged,
    set_aside_remains,
    sha256_of,
    state_of,
)
from k3s_ha_agent.operations.k3s_health import K3sHealth, require_dead, stop_and_wait_dead
from k3s_ha_agent.operations.plan import Run
from k3s_ha_agent.operations.threads import in_thread, in_thread_cancellable


@dataclasses.dataclass(frozen=True, slots=True)
class SealPreImage:
    health: K3sHealth
    state_dir: Path
    stop_timeout: float
    """Seconds."""

    name: str = "seal-pre-image"
    resumable: bool = True
    on_disk: str = "k3s is stopped; state.db and its WAL are untouched, the sealed copy may be half-written."
    by_hand: str = "Remove the gate and start k3s: it is still on its SQLite files."

    @property
    def layout(self) -> Layout:
        return self.health.layout

    async def do(self, run: Run) -> None:
        backup = pre_image.directory(self.state_dir, run.operation.id)
        sealed = backup / pre_image.SEALED

        if run.has_fact("sealed_sha256"):
            # Sealed before, and relied upon by undo and rescue: looked at, never made again.
            if await in_thread(sha256_of, sealed) != run.fact("sealed_sha256"):
                raise StepFailed(f"{sealed} is not what was sealed.")
            await in_thread(require_unchanged, self.layout, run.fact("sealed_of"))
            await self._rely_on(run)
            return

        def seal(cancel: threading.Event) -> dict[str, Any]:
            inode, before = self.layout.state_db.stat().st_ino, state_of(self.layout)
            pre_image.remove_temporary(backup)
            durable.remove(sealed)
            kine.backup(
                self.layout.state_db,
                sealed,
                cancel=cancel,
                progress=lambda done, total: run.progress(done, total, "pages"),
            )
            kine.check(sealed)
            summary = kine.summarize(sealed)
            if summary.max_id < run.fact("max_id"):
                raise StepFailed(
                    f"The stopped SQLite ends at revision {summary.max_id}, the running one was already "
                    f"at {run.fact('max_id')}: rows are missing.",
                    next_step="Nothing was changed; look at the disk and the WAL.",
                )
            pre_image.free(backup)
            about = {
                "operation": run.operation.id,
                "k3s_version": run.operation.facts.get("k3s_version"),
                "sealed": True,
                "inode": inode,
                "summary": to_json(summary),
            }
            pre_image.write_manifest(backup, about)
            return {
                "inode": inode,
                "sealed_of": before,
                "live_rows": summary.live_rows,
                "live_bytes": summary.live_bytes,
                "leased_rows": summary.leased_rows,
                "max_id": summary.max_id,
                "sealed": str(sealed),
                "sealed_sha256": sha256_of(sealed),
            }

        facts = await in_thread_cancellable(seal)
        await require_dead(self.health)  # else it is not the state k3s stopped in
        await in_thread(require_unchanged, self.layout, facts["sealed_of"])
        await run.remember(**facts)
        await self._rely_on(run)
        run.decide(f"The pre-image is sealed: {facts['live_rows']} live keys at revision {facts['max_id']}.")

    async def _rely_on(self, run: Run) -> None:
        """From here the rescue may put it back."""
        names = ("sealed", "sealed_sha256", "inode")
        await run.set_rescue(**{**run.operation.rescue, **{name: run.fact(name) for name in names}})

    async def verify(self, run: Run) -> None:
        await require_dead(self.health)
        if self.layout.state_db.stat().st_ino != run.fact("inode"):
            raise StepFailed(f"{self.layout.state_db} was replaced while k3s was stopped.")

    async def undo(self, run: Run) -> None:
        """Put the sealed copy back, unless ``state.db`` was never converted: then it is as new, or newer, when
        somebody (a boot, a person) has started k3s on it meanwhile."""
        if left := await in_thread(pre_image.tidy, pre_image.directory(self.state_dir, run.operation.id)):
            run.decide(left)
        await in_thread(remove_temporary, self.layout)
        if not run.has_fact("sealed_sha256"):
            if self.layout.etcd_member_wal.exists():
                raise StepFailed(
                    f"{self.layout.etcd_member_wal} exists although the pre-image was never sealed.",
                    next_step="Somebody else converts this server; see docs/runbook.md#unknown-etcd.",
                )
            return
        sealed, sha256 = Path(run.fact("sealed")), run.fact("sealed_sha256")
        quarantine = self.layout.quarantine / run.operation.id
        # Not ours to assume: a boot starts k3s, and so may anybody. Files must not be moved from under it.
        await stop_and_wait_dead(self.health, self.stop_timeout)
        await in_thread(set_aside_remains, self.layout, quarantine)
        if not await in_thread(conversion_began, self.layout, int(run.fact("inode")), quarantine):
            run.evidence("sqlite-untouched", True, "no etcd was begun; state.db is the file k3s was stopped on")
            run.decide("k3s never began to convert; its SQLite stays as it is.")
            return
        await in_thread(put_back_sqlite, self.layout, sealed, sha256, quarantine)
        run.evidence("pre-image-restored", True, f"state.db has SHA-256 {sha256[:16]}…, as sealed; no WAL beside it")
        run.decide(f"The sealed pre-image is back in {self.layout.state_db}; what was there is in {quarantine}.")
