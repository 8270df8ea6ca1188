"""Runs a plan: deadlines, undo in reverse order, the record made durable before and after each act.

The engine knows nothing about k3s. It promises:

* no act begins before a durable record says that it begins, and none counts as ended before a
  durable record says so;
* when a step fails, it and every step before it are undone in reverse order;
* past the commitment nothing is undone;
* being cancelled (the agent is told to stop) is neither failure nor undo: the record stays as it
  is and the next start reads it (``resume.py``).
"""

from __future__ import annotations

import asyncio
import dataclasses
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import structlog

from k3s_ha_agent.errors import Aborted, AgentError, DeadlineExceeded, EvidenceMissing
from k3s_ha_agent.model import Event, Evidence, Operation, Outcome, Phase, Progress, StepRecord, StepStatus, now
from k3s_ha_agent.operations.journal import Journal
from k3s_ha_agent.operations.plan import Observer, Plan, Step

UNDO_ATTEMPTS = 3
UNDO_PAUSES = (1.0, 5.0)
FINISH_ATTEMPTS = 5
FINISH_PAUSE = 2.0

Publish = Callable[[Operation, Event], None]
log = structlog.get_logger("k3s_ha_agent.operations")


class LiveRun:
    """The ``Run`` of an operation in progress."""

    def __init__(
        self, operation: Operation, journal: Journal, publish: Publish, observer: Observer, undo_timeout: float
    ) -> None:
        self.operation = operation
        self.abort = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._journal = journal
        self._publish = publish
        self._observer = observer
        self._undo_timeout = undo_timeout
        self._deadline = self._deadline_from(operation)
        self._undo_deadline: float | None = None
        self._saving = asyncio.Lock()
        self._last_event = 0

    @staticmethod
    def _deadline_from(operation: Operation) -> float:
        """The recorded deadline on this boot's monotonic clock; an hour when none was set yet."""
        recorded = operation.facts.get("deadline_boottime")
        return float(recorded) if recorded is not None else time.clock_gettime(time.CLOCK_BOOTTIME) + 3600

    # --- the Run protocol ----------------------------------------------------------------------

    def fact(self, name: str) -> Any:
        return self.operation.facts[name]

    def has_fact(self, name: str) -> bool:
        return name in self.operation.facts

    async def remember(self, **facts: Any) -> None:
        await self.save(facts={**self.operation.facts, **facts})

    async def forget(self, *names: str) -> None:
        await self.save(facts={k: v for k, v in self.operation.facts.items() if k not in names})

    async def set_rescue(self, **rescue: Any) -> None:
        await self.save(rescue=rescue)

    async def set_deadline(self, seconds: float) -> None:
        self._deadline = time.clock_gettime(time.CLOCK_BOOTTIME) + seconds
        until = time.time() + seconds
        text = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(until))
        await self.save(deadline=text, facts={**self.operation.facts, "deadline_boottime": self._deadline})

    def remaining(self) -> float:
        limit = self._deadline if self._undo_deadline is None else self._undo_deadline
        return max(0.0, limit - time.clock_gettime(time.CLOCK_BOOTTIME))

    def start_undo_deadline(self) -> None:
        self._undo_deadline = time.clock_gettime(time.CLOCK_BOOTTIME) + self._undo_timeout

    def progress(self, done: int, total: int, unit: str) -> None:
        if threading.get_ident() != self._thread:
            self._loop.call_soon_threadsafe(self.progress, done, total, unit)
            return
        progress = Progress(done, total, unit)
        steps = tuple(
            dataclasses.replace(s, progress=progress) if s.status in (StepStatus.DOING, StepStatus.UNDOING) else s
            for s in self.operation.steps
        )
        self.operation = dataclasses.replace(self.operation, steps=steps)
        self.emit("progress", done=done, total=total, unit=unit)

    def decide(self, sentence: str) -> None:
        log.info(sentence, operation=self.operation.id, kind=self.operation.kind.value)
        self.emit("decision", sentence=sentence)

    def evidence(self, name: str, ok: bool, value: str, needed: str = "") -> None:
        item = Evidence(name, ok, value, needed)
        rest = tuple(e for e in self.operation.evidence if e.name != name)
        failed = tuple(n for n in self.operation.failed_evidence if n != name)
        self.operation = dataclasses.replace(
            self.operation, evidence=(*rest, item), failed_evidence=failed if ok else (*failed, name)
        )
        self.emit("evidence", name=name, ok=ok, value=value, needed=needed)
        if not ok:
            said = f"{name}: found {value.removesuffix('.')}" + (f", needed {needed}." if needed else ".")
            raise EvidenceMissing(said, evidence=name)

    def name_failed(self, what: str) -> None:
        """Name what is missing when no evidence was: the step that failed."""
        self.operation = dataclasses.replace(self.operation, failed_evidence=(what,))

    # --- for the engine ------------------------------------------------------------------------

    def emit(self, type_: str, **data: Any) -> None:
        self._last_event += 1
        event = Event(self._last_event, now(), type_, data)
        self._publish(self.operation, event)

    def continue_events_after(self, last: int) -> None:
        self._last_event = last

    async def save(self, **changes: Any) -> None:
        """Change the operation and make it durable; the change is not seen before it is.

        Shielded: a cancellation must not leave memory and disk with different records.
        """
        async with self._saving:
            changed = dataclasses.replace(self.operation, **changes)
            self._observer("before record")
            task = asyncio.ensure_future(asyncio.to_thread(self._journal.save, changed))
            try:
                await asyncio.shield(task)
            except asyncio.CancelledError:
                await task
                self.operation = self._keep_live(changed)
                raise
            self.operation = self._keep_live(changed)
            self._observer("after record")

    def _keep_live(self, saved: Operation) -> Operation:
        """What was saved, with evidence and progress that came in while the disk was busy."""
        live = self.operation
        return dataclasses.replace(saved, evidence=live.evidence, failed_evidence=live.failed_evidence)

    async def mark(self, name: str, status: StepStatus, *, error: str | None = None, **changes: Any) -> None:
        steps = tuple(self._marked(s, status, error) if s.name == name else s for s in self.operation.steps)
        await self.save(steps=steps, **changes)
        self.emit("step", step=name, status=status.value, error=error)

    @staticmethod
    def _marked(record: StepRecord, status: StepStatus, error: str | None) -> StepRecord:
        started = now() if status is StepStatus.DOING else record.started_at
        ended = status in (StepStatus.DONE, StepStatus.FAILED, StepStatus.UNDONE, StepStatus.UNDO_FAILED)
        return dataclasses.replace(
            record,
            status=status,
            started_at=started,
            finished_at=now() if ended else None,
            error=error if error is not None else record.error,
        )


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
            except Exception as error:  # noqa: BLE001 - whatever went wrong before the commitment is undone
                await self._failed(step, run, error)
                await self.undo(plan, run)
                return
        await self._end_committed(run)

    async def _forward(self, step: Step, plan: Plan, run: LiveRun) -> None:
        if run.abort.is_set():
            raise Aborted("The operation was aborted on request.")
        await run.mark(step.name, StepStatus.DOING)
        await self._act(f"do {step.name}", step.do(run), run)
        await self._act(f"verify {step.name}", step.verify(run), run)
        if step.name != plan.commitment:
            await run.mark(step.name, StepStatus.DONE)
            return
        if run.abort.is_set():
            raise Aborted("The operation was aborted on request.")
        await run.mark(step.name, StepStatus.DONE, committed=True)
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
                await asyncio.wait({task})
        self._observer(f"after {point}")

    async def _failed(self, step: Step, run: LiveRun, error: Exception) -> None:
        detail = describe(error)
        log.warning(
            f"{run.operation.kind} failed in {step.name}: {detail}",
            operation=run.operation.id,
            step=step.name,
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
        run.decide(f"The {run.operation.kind} was rolled back: {run.operation.reason}")
        run.emit("finished", outcome=Outcome.ROLLED_BACK.value)

    async def _undo_step(self, step: Step, run: LiveRun) -> Exception | None:
        await run.mark(step.name, StepStatus.UNDOING)
        error: Exception | None = None
        for attempt in range(UNDO_ATTEMPTS):
            if attempt:
                await asyncio.sleep(UNDO_PAUSES[attempt - 1])
            self._observer(f"before undo {step.name}")
            try:
                async with asyncio.timeout(run.remaining()):
                    await step.undo(run)
            except Exception as failure:  # noqa: BLE001 - recorded, tried again, then said aloud
                error = failure
                log.warning(f"Undoing {step.name} failed: {describe(failure)}", step=step.name, attempt=attempt + 1)
                continue
            self._observer(f"after undo {step.name}")
            await run.mark(step.name, StepStatus.UNDONE)
            return None
        return error

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
                    await step.verify(run)
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
            step=step.name,
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
            f"The {run.operation.kind} succeeded." if not failed else f"The {run.operation.kind} succeeded. {reason}"
        )
        run.emit("finished", outcome=Outcome.SUCCEEDED.value)


def describe(error: BaseException | None) -> str:
    """One sentence of an error; a bug is named as one."""
    if isinstance(error, AgentError):
        return error.detail
    if isinstance(error, OSError):
        return f"{error.strerror or error}: {error.filename}" if error.filename else str(error)
    return f"{type(error).__name__}: {error}"
