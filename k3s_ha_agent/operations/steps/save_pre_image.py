"""Save the pre-image while k3s still runs: what can be copied now need not be copied while it is stopped."""

from __future__ import annotations

import dataclasses
import shutil
import threading
from pathlib import Path

from k3s_ha_agent import durable
from k3s_ha_agent.errors import StepFailed
from k3s_ha_agent.host.units import Units, UnitState
from k3s_ha_agent.k3s import kine
from k3s_ha_agent.k3s.layout import Layout
from k3s_ha_agent.model import to_json
from k3s_ha_agent.operations import pre_image
from k3s_ha_agent.operations.plan import Run
from k3s_ha_agent.operations.threads import in_thread, in_thread_cancellable


@dataclasses.dataclass(frozen=True, slots=True)
class SavePreImage:
    units: Units
    layout: Layout
    unit: str
    k3s_config: Path
    state_dir: Path

    name: str = "save-pre-image"
    resumable: bool = True
    on_disk: str = "Nothing of k3s has changed; a pre-image may lie half-written in the agent's backups."
    by_hand: str = "Nothing; the half-written pre-image may be deleted."

    def backup(self, run: Run) -> Path:
        return pre_image.directory(self.state_dir, run.operation.id)

    async def do(self, run: Run) -> None:
        backup = self.backup(run)
        state = await self.units.state(self.unit)

        def save(cancel: threading.Event) -> dict[str, object]:
            if backup.exists():
                shutil.rmtree(backup)  # a half-written one of this same operation, before anything was changed
            durable.make_directory(backup)
            target = backup / pre_image.RUNNING
            kine.backup(
                self.layout.state_db,
                target,
                cancel=cancel,
                progress=lambda done, total: run.progress(done, total, "pages"),
            )
            kine.check(target)
            summary = kine.summarize(target)
            if summary.live_rows == 0:
                raise StepFailed(f"{self.layout.state_db} holds no live key; there is nothing to migrate.")
            pre_image.copy_tree(self._sources(state), backup)
            about = {
                "operation": run.operation.id,
                "k3s_version": run.operation.facts.get("k3s_version"),
                "sealed": False,
                "summary": to_json(summary),
            }
            about["digests"] = to_json(kine.digests(target))
            pre_image.write_manifest(backup, about)
            return {"live_rows": summary.live_rows, "live_bytes": summary.live_bytes, "max_id": summary.max_id}

        facts = await in_thread_cancellable(save)
        await run.remember(backup=str(backup), **facts)

    def _sources(self, state: UnitState) -> list[Path]:
        fragment = [state.fragment_path] if state.fragment_path is not None else []
        unit_files = [*fragment, *state.drop_in_paths, *state.environment_files]
        config = [self.k3s_config, self.k3s_config.with_name(self.k3s_config.name + ".d")]
        data = [self.layout.token_file, self.layout.node_token, self.layout.cred, self.layout.tls]
        return [*unit_files, *config, *data]

    async def verify(self, run: Run) -> None:
        await in_thread(pre_image.verify, self.backup(run))

    async def undo(self, run: Run) -> None:
        """Only what was cut off goes: the pre-image harms nobody, and it is evidence of what was there."""
        if left := await in_thread(pre_image.tidy, self.backup(run)):
            run.decide(left)
