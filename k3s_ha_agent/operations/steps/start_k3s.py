"""Start k3s on the new datastore and watch it: log lines, files and the unit, whichever speaks first."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses

from k3s_ha_agent.errors import DeadlineExceeded, StepFailed
from k3s_ha_agent.host.journald import JournalSource
from k3s_ha_agent.host.units import UnitState
from k3s_ha_agent.host.watch import DirectoryWatch
from k3s_ha_agent.k3s.layout import datastore
from k3s_ha_agent.k3s.log_lines import BadSign, Migrating, Milestone, classify
from k3s_ha_agent.model import Datastore
from k3s_ha_agent.operations.datastore_files import require_unchanged
from k3s_ha_agent.operations.k3s_health import K3sHealth, require_configuration, stop_and_wait_dead
from k3s_ha_agent.operations.plan import Run
from k3s_ha_agent.operations.threads import in_thread

LAST_MOMENT = 2.0
"""Seconds before the deadline at which the wait ends by itself, with what is known by then."""

UNIT_POLL = 0.5
"""Seconds between looks at the unit; a lost D-Bus signal costs no more than this."""


@dataclasses.dataclass(frozen=True, slots=True)
class StartK3s:
    health: K3sHealth
    journal: JournalSource
    stop_timeout: float
    expects_copy: bool
    """True when this start converts SQLite to etcd."""
    joins: bool = False
    """True when ``server:`` is set because this server is to join another one."""

    name: str = "start-k3s"
    resumable: bool = True
    on_disk: str = (
        "k3s is copying: etcd's member/wal exists and state.db keeps its name until the last key is written. "
        "The gate keeps k3s from starting on that half copy."
    )
    by_hand: str = "systemctl start k3s-ha-agent-rescue.service puts the sealed pre-image back."

    async def do(self, run: Run) -> None:
        state = await self.health.state()
        if run.has_fact("invocation_id"):
            # Resumed: the conversion went on, or ended, without us. The same invocation or none.
            await self.health.require_unbroken_run(run.fact("invocation_id"))
        elif state.active_state in ("active", "activating"):
            # Resumed between the start and its record. Whose start it was does not matter: the
            # gate guards the files, and every key is proven afterwards.
            await run.remember(invocation_id=state.invocation_id)
        else:
            if self.expects_copy:
                await in_thread(require_unchanged, self.health.layout, run.fact("sealed_of"))
            if not self.joins:
                await require_configuration(self.health, Datastore.ETCD if self.expects_copy else Datastore.SQLITE)
            if state.active_state == "failed":
                await self.health.units.reset_failed(self.health.unit)
            await self.health.restore_contexts()
            await self.health.units.start_unit(self.health.unit)
            state = await self._until_invoked()
            await run.remember(invocation_id=state.invocation_id)
        try:
            await self._watch(run)
        except StepFailed as error:
            verdict, sentence = await in_thread(datastore, self.health.layout)
            if self.expects_copy and verdict is Datastore.HALF_COPIED:
                run.evidence("copy-finished", False, f"{sentence} {error.detail}", "state.db renamed by k3s")
            raise

    async def _until_invoked(self) -> UnitState:
        """The unit once the start has begun: it has an invocation of its own."""
        for _ in range(60):
            state = await self.health.state()
            if state.active_state in ("active", "activating", "failed") and state.invocation_id:
                return state
            await asyncio.sleep(UNIT_POLL)
        raise StepFailed(f"systemd did not begin to start {self.health.unit} within 30 seconds.")

    async def _watch(self, run: Run) -> None:
        """Wait for READY=1; end at once when the log, the files or the unit say that it cannot come."""
        bad: asyncio.Future[BadSign] = asyncio.get_running_loop().create_future()
        followers = [asyncio.ensure_future(self._follow_log(run, bad))]
        if self.expects_copy:
            followers.append(asyncio.ensure_future(self._follow_files(run)))
        try:
            while True:
                state = await self.health.require_unbroken_run(run.fact("invocation_id"))
                if state.active_state == "active":
                    return
                for follower in followers:
                    if follower.done() and follower.exception() is not None:
                        await follower
                if bad.done():
                    sign = bad.result()
                    raise StepFailed(f"k3s says: {sign.sentence}", next_step=sign.remedy, sign=sign.name)
                if run.remaining() < LAST_MOMENT:
                    raise DeadlineExceeded(f"{self.health.unit} did not become active before the deadline.")
                await asyncio.wait({bad}, timeout=UNIT_POLL)
        except StepFailed as error:
            # The log often says why the unit ended; a moment for its last lines to arrive, but not the last one:
            # what is known by now must still be recorded before the deadline.
            await asyncio.wait({bad}, timeout=min(2.0, run.remaining() / 2))
            if bad.done() and "sign" not in error.extensions:
                sign = bad.result()
                raise StepFailed(
                    f"{error.detail} k3s says: {sign.sentence}", next_step=sign.remedy, sign=sign.name
                ) from error
            raise
        finally:
            for follower in followers:
                follower.cancel()
            await asyncio.gather(*followers, return_exceptions=True)

    async def _follow_log(self, run: Run, bad: asyncio.Future[BadSign]) -> None:
        """Progress from ``Migrating etcd key`` lines; the first bad sign."""
        total = int(run.fact("live_rows")) if run.has_fact("live_rows") else 0
        copied = 0
        async with contextlib.aclosing(
            self.journal.follow(self.health.unit, invocation_id=run.fact("invocation_id"))
        ) as lines:
            async for line in lines:
                sign = classify(line.message)
                if isinstance(sign, Migrating):
                    copied += 1
                    if copied % 10 == 0 or copied >= total:
                        run.progress(copied, total, "keys")
                elif isinstance(sign, Milestone):
                    run.decide(f"k3s: {sign.name}")
                elif isinstance(sign, BadSign) and self._concerns_us(sign) and not bad.done():
                    bad.set_result(sign)

    def _concerns_us(self, sign: BadSign) -> bool:
        return self.expects_copy or not sign.only_when_migrating

    async def _follow_files(self, run: Run) -> None:
        """Say when the two files change that decide (k3s-facts, "ten facts" 1 and 4)."""
        layout = self.health.layout
        async with DirectoryWatch(layout.db) as watch:
            await watch.wait_for(lambda: True if layout.etcd_member_wal.exists() else None)
            run.decide("etcd is initialised: member/wal exists. The copy begins.")
            await watch.wait_for(lambda: None if layout.state_db.exists() else True)
            run.decide("k3s renamed state.db: the copy has ended.")

    async def verify(self, run: Run) -> None:
        state = await self.health.require_unbroken_run(run.fact("invocation_id"))
        if state.active_state != "active":
            raise StepFailed(f"{self.health.unit} is {state.active_state}, not active.")

    async def undo(self, run: Run) -> None:
        await stop_and_wait_dead(self.health, self.stop_timeout)
