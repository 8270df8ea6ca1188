"""Runs a plan: deadlines, undo in reverse order, the record made durable before and after each act.

The engine knows nothing about k3s. It promises:

* no act begins before a durable record says that it begins, and none counts as ended before a
  durable record says so;
* when a step fails, it and every step before it are undone in reverse order;
* when a record cannot be written, nothing more is done: RecordNotWritten is raised, and who called brings
  the node back by other means (``manager.py``: the rescue);
* past the commitment nothing is undone;
* being cancelled (the agent is told to stop) is neither failure nor undo: the record stays as it
  is and the next start reads it (``resume.py``).
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable

import structlog

from k3s_ha_agent.errors import Aborted, AgentError, DeadlineExceeded, OutsideError, RecordNotWritten
from k3s_ha_agent.host.messages import Message
from k3s_ha_agent.model import Operation, Outcome, Phase, StepStatus, now
from k3s_ha_agent.operations.journal import Journal
from k3s_ha_agent.operations.live_run import LiveRun, Publish
from k3s_ha_agent.operations.plan import Observer, Plan, Step
from k3s_ha_agent.operations.threads import until_done

UNDO_ATTEMPTS = 3
"""At least; while systemd cannot be reached over D-Bus, as many as the time for undoing allows."""
UNDO_PAUSES = (1.0, 5.0)
"""Seconds before the second attempt, and before each later one."""
FINISH_ATTEMPTS = 5
FINISH_PAUSE = 2.0

log = structlog.get_logger("k3s_ha_agent.operations")


class Engine:
    """Runs plans over a journal. One engine per agent; one operation at a time is the manager's rule."""

    def __init__(self, journal: Journal, publish: Publish, *, undo_timeout: float, observer: Observer | None = None):
        self._journal = journal
        self._publish = publish
        self._undo_timeout = undo_timeout
        self._observer: Observer = observer or (lambda point: None)

    def live(self, operation: Operation) -> LiveRun:
        return LiveRun(operation, self._journal, self._publish, self._observer, self._undo_timeout)

    async def run(self, plan: Plan, run: LiveRun) -> None:
        """Go forward from the first step that is not done, and back when a step fails."""
        for step in plan.steps:
            if run.operation.step(step.name).status is StepStatus.DONE:
                continue
            if run.operation.committed:
                await self._finish_step(step, run)
                continue
            try:
                await self._forward(step, plan, run)
            except RecordNotWritten:
                raise
            except Exception as error:  # noqa: BLE001 - whatever went wrong before the commitment is undone
                await self._failed(step, run, error)
                await self.undo(plan, run)
                return
        await self._end_committed(run)

    async def _forward(self, step: Step, plan: Plan, run: LiveRun) -> None:
        await run.begin(step.name, plan.no_way_back)
        await self._act(f"do {step.name}", step.do(run), run)
        await self._act(f"verify {step.name}", step.verify(run), run)
        if step.name != plan.commitment:
            await run.mark(step.name, StepStatus.DONE)
            return
        await run.commit(step.name, plan.no_way_back)
        run.decide(f"The {run.operation.kind} is committed: nothing is undone by itself any more.")

    async def _act(self, point: str, act: Awaitable[None], run: LiveRun) -> None:
        """One act within the deadline, ended early by an abort."""
        self._observer(f"before {point}")
        task = asyncio.ensure_future(act)
        aborted = asyncio.ensure_future(run.abort.wait())
        try:
            while not task.done():
                # Asked again every second: a step may have set a new deadline meanwhile.
                await asyncio.wait({task, aborted}, timeout=min(1.0, run.remaining()), return_when="FIRST_COMPLETED")
                if task.done():
                    break
                if aborted.done():
                    raise Aborted("The operation was aborted on request.")
                if run.remaining() <= 0:
                    raise DeadlineExceeded(f"{point.partition(' ')[2]} did not end before the operation's deadline.")
            await task
        finally:
            aborted.cancel()
            if not task.done():
                task.cancel()
                await until_done(task)
        self._observer(f"after {point}")

    async def _failed(self, step: Step, run: LiveRun, error: Exception) -> None:
        detail = describe(error)
        log.warning(
            f"{run.operation.kind} failed in {step.name}: {detail}",
            operation=run.operation.id,
            kind=run.operation.kind.value,
            step=step.name,
            message_id=Message.STEP_FAILED,
            exc_info=None if isinstance(error, AgentError) else error,
        )
        if not run.operation.failed_evidence:
            run.name_failed(step.name)
        status = run.operation.step(step.name).status
        if status is StepStatus.PENDING:
            await run.save(phase=Phase.UNDOING, reason=detail)
            return
        await run.mark(step.name, StepStatus.FAILED, error=detail, phase=Phase.UNDOING, reason=detail)

    # --- back ----------------------------------------------------------------------------------

    async def undo(self, plan: Plan, run: LiveRun, *, reason: str | None = None) -> None:
        """Undo every step that began, last first; ends as rolled_back or rollback_failed."""
        if run.operation.phase is not Phase.UNDOING:
            await run.save(phase=Phase.UNDOING, reason=run.operation.reason or reason)
        run.start_undo_deadline()
        run.decide(f"Undoing the {run.operation.kind}: {run.operation.reason}")
        for step in reversed(plan.steps):
            if run.operation.step(step.name).status in (StepStatus.PENDING, StepStatus.UNDONE):
                continue
            error = await self._undo_step(step, run)
            if error is not None:
                await self._undo_failed(step, run, error)
                return
        await run.save(
            phase=Phase.FINISHED, outcome=Outcome.ROLLED_BACK, finished_at=now(), finished_by="agent", rescue={}
        )
        run.decide(f"The {run.operation.kind} was rolled back: {run.operation.reason}", Message.ROLLED_BACK)
        run.emit("finished", outcome=Outcome.ROLLED_BACK.value)

    async def _undo_step(self, step: Step, run: LiveRun) -> Exception | None:
        await run.mark(step.name, StepStatus.UNDOING)
        last: Exception | None = None
        for attempt in itertools.count(1):
            self._observer(f"before undo {step.name}")
            try:
                async with asyncio.timeout(run.remaining()):
                    await step.undo(run)
            except RecordNotWritten:
                raise
            except Exception as failure:  # noqa: BLE001 - recorded, tried again, then said aloud
                log.warning(f"Undoing {step.name} failed: {describe(failure)}", step=step.name, attempt=attempt)
                if isinstance(failure, TimeoutError) and last is not None:
                    return last  # it says more than that the time is over
                may_pass = isinstance(failure, OutsideError) and "dbus_error" in failure.extensions
                if attempt >= UNDO_ATTEMPTS and not (may_pass and run.remaining() > 0):
                    return failure
                last = failure
                await asyncio.sleep(UNDO_PAUSES[min(attempt, len(UNDO_PAUSES)) - 1])
                continue
            self._observer(f"after undo {step.name}")
            await run.mark(step.name, StepStatus.UNDONE)
            return None
        raise AssertionError("unreachable")

    async def _undo_failed(self, step: Step, run: LiveRun, error: Exception) -> None:
        detail = f"Undoing {step.name} failed: {describe(error)}"
        await run.mark(step.name, StepStatus.UNDO_FAILED, error=detail)
        reason = f"{run.operation.reason} {detail}".strip()
        await run.save(
            phase=Phase.FINISHED,
            outcome=Outcome.ROLLBACK_FAILED,
            reason=reason,
            finished_at=now(),
            finished_by="agent",
        )
        log.critical(
            f"The rollback of {run.operation.kind} {run.operation.id} FAILED and this server needs a person: {detail} "
            "The gate stays closed and the pre-image is kept; run: systemctl start k3s-ha-agent-rescue.service",
            operation=run.operation.id,
            kind=run.operation.kind.value,
            step=step.name,
            message_id=Message.ROLLBACK_FAILED,
        )
        run.emit("finished", outcome=Outcome.ROLLBACK_FAILED.value)

    # --- past the commitment ---------------------------------------------------------------------

    async def _finish_step(self, step: Step, run: LiveRun) -> None:
        """Tidying up after the commitment: tried several times, reported, never undone."""
        await run.mark(step.name, StepStatus.DOING)
        error: Exception | None = None
        for attempt in range(FINISH_ATTEMPTS):
            if attempt:
                await asyncio.sleep(FINISH_PAUSE)
            try:
                self._observer(f"before do {step.name}")
                async with asyncio.timeout(self._undo_timeout):
                    await step.do(run)
                    self._observer(f"after do {step.name}")
                    self._observer(f"before verify {step.name}")
                    await step.verify(run)
                    self._observer(f"after verify {step.name}")
            except RecordNotWritten:
                raise
            except Exception as failure:  # noqa: BLE001 - recorded and said aloud below
                error = failure
                log.warning(f"{step.name} failed after the commitment: {describe(failure)}", step=step.name)
                continue
            await run.mark(step.name, StepStatus.DONE)
            return
        await run.mark(step.name, StepStatus.FAILED, error=describe(error))
        log.error(
            f"{run.operation.kind} {run.operation.id} is committed, but {step.name} did not work: {describe(error)} "
            "It is tried again when the agent starts: systemctl restart k3s-ha-agent.service",
            operation=run.operation.id,
            kind=run.operation.kind.value,
            step=step.name,
            message_id=Message.NOT_TIDIED,
        )

    async def _end_committed(self, run: LiveRun) -> None:
        failed = [s.name for s in run.operation.steps if s.status is not StepStatus.DONE]
        reason = f"Committed, but not tidied up: {', '.join(failed)}." if failed else None
        await run.save(
            phase=Phase.FINISHED,
            outcome=Outcome.SUCCEEDED,
            reason=reason,
            finished_at=run.operation.finished_at or now(),
            finished_by="agent",
            rescue={},
        )
        run.decide(
            f"The {run.operation.kind} succeeded." if not failed else f"The {run.operation.kind} succeeded. {reason}",
            Message.SUCCEEDED,
        )
        run.emit("finished", outcome=Outcome.SUCCEEDED.value)


def describe(error: BaseException | None) -> str:
    """One sentence of an error; a bug is named as one."""
    if isinstance(error, AgentError):
        return error.detail
    if isinstance(error, TimeoutError) and not error.args:
        return "it did not end within the time allowed"
    if isinstance(error, OSError):
        return f"{error.strerror or error}: {error.filename}" if error.filename else str(error)
    return f"{type(error).__name__}: {error}"
