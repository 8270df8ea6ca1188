"""Bring the pre-image up to the stopped state; undo puts it back.

Whatever the WAL held when k3s died is only now certain (k3s does not checkpoint on stop,
k3s-facts, "Seen" 2). The undo of this step is the way back of a migration.
"""

from __future__ import annotations

import dataclasses
import threading
from pathlib import Path

from k3s_ha_agent import durable
from k3s_ha_agent.errors import StepFailed
from k3s_ha_agent.k3s import kine
from k3s_ha_agent.k3s.layout import Layout
from k3s_ha_agent.model import to_json
from k3s_ha_agent.operations import pre_image
from k3s_ha_agent.operations.datastore_files import conversion_began, put_back_sqlite, sha256_of
from k3s_ha_agent.operations.k3s_health import K3sHealth, stop_and_wait_dead
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

        def seal(cancel: threading.Event) -> dict[str, object]:
            inode = self.layout.state_db.stat().st_ino
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
                "live_rows": summary.live_rows,
                "live_bytes": summary.live_bytes,
                "leased_rows": summary.leased_rows,
                "max_id": summary.max_id,
                "sealed": str(sealed),
                "sealed_sha256": sha256_of(sealed),
            }

        facts = await in_thread_cancellable(seal)
        await run.remember(**facts)
        await run.set_rescue(
            **{**run.operation.rescue, **{name: facts[name] for name in ("sealed", "sealed_sha256", "inode")}}
        )
        run.decide(f"The pre-image is sealed: {facts['live_rows']} live keys at revision {facts['max_id']}.")

    async def verify(self, run: Run) -> None:
        if self.layout.state_db.stat().st_ino != run.fact("inode"):
            raise StepFailed(f"{self.layout.state_db} was replaced while k3s was stopped.")

    async def undo(self, run: Run) -> None:
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
        if not await in_thread(conversion_began, self.layout, int(run.fact("inode")), quarantine):
            run.evidence("sqlite-untouched", True, "no etcd was begun; state.db is the file k3s was stopped on")
            run.decide("k3s never began to convert; its SQLite stays as it is.")
            return
        await in_thread(put_back_sqlite, self.layout, sealed, sha256, quarantine)
        run.evidence("pre-image-restored", True, f"state.db has SHA-256 {sha256[:16]}…, as sealed; no WAL beside it")
        run.decide(f"The sealed pre-image is back in {self.layout.state_db}; what was there is in {quarantine}.")
