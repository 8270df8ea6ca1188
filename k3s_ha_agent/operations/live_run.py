"""What a step may know of, and do to, the operation it belongs to, while it runs."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
import time
from collections.abc import Callable
from typing import Any

import structlog

from k3s_ha_agent.errors import Aborted, AlreadyCommitted, EvidenceMissing, RecordNotWritten
from k3s_ha_agent.host.messages import Message
from k3s_ha_agent.model import Event, Evidence, Operation, Progress, StepRecord, StepStatus, now
from k3s_ha_agent.operations.journal import Journal
from k3s_ha_agent.operations.plan import Observer
from k3s_ha_agent.operations.threads import until_done

RECORD_PAUSES = (0.1, 0.4, 1.0, 2.0, 4.0)
"""Seconds between the tries to write a record. k3s may be stopped meanwhile, so it is not tried for long."""

Publish = Callable[[Operation, Event], None]
log = structlog.get_logger("k3s_ha_agent.operations")


def _must_finish(operation: Operation, no_way_back: str | None) -> bool:
    """Whether an abort comes too late: it is committed, or in the step that can only be finished."""
    begun = no_way_back is not None and operation.step(no_way_back).status in (StepStatus.DOING, StepStatus.DONE)
    return operation.committed or begun


def refuse_abort(operation: Operation, no_way_back: str | None) -> None:
    """AlreadyCommitted when an abort comes too late."""
    if operation.committed:
        raise AlreadyCommitted(
            f"The {operation.kind} {operation.id} is committed.",
            next_step="To go back, ask for a rollback: k3s-ha-agentctl rollback --writes discard",
        )
    if _must_finish(operation, no_way_back):
        raise AlreadyCommitted(
            f"The {operation.kind} {operation.id} has begun {no_way_back}, which can only be finished.",
            next_step=f"Wait for its end: k3s-ha-agentctl watch {operation.id}",
        )


def _refuse_aborted(operation: Operation, no_way_back: str | None) -> None:
    if operation.abort_requested and not _must_finish(operation, no_way_back):
        raise Aborted("The operation was aborted on request.")


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

    def decide(self, sentence: str, message: Message | None = None) -> None:
        log.info(sentence, operation=self.operation.id, kind=self.operation.kind.value, message_id=message)
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

    async def request_abort(self, no_way_back: str | None) -> None:
        """Make an abort durable and act on it. AlreadyCommitted when the commitment, or the step that can only be
        finished, was first: one of the two wins."""
        await self.save(unless=lambda operation: refuse_abort(operation, no_way_back), abort_requested=True)
        self.abort.set()

    async def begin(self, name: str, no_way_back: str | None) -> None:
        """Mark a step as being done. Aborted when an abort was first and is still in time."""
        await self.mark(name, StepStatus.DOING, unless=lambda operation: _refuse_aborted(operation, no_way_back))

    async def commit(self, name: str, no_way_back: str | None) -> None:
        """Mark the step of the commitment done. Aborted as in ``begin``."""
        steps = tuple(self._marked(s, StepStatus.DONE, None) if s.name == name else s for s in self.operation.steps)
        await self.save(unless=lambda operation: _refuse_aborted(operation, no_way_back), steps=steps, committed=True)
        self.emit("step", step=name, status=StepStatus.DONE.value, error=None)

    async def save(self, *, unless: Callable[[Operation], None] = lambda _: None, **changes: Any) -> None:
        """Change the operation and make it durable; the change is not seen before it is.

        ``unless`` may raise on the operation as it is when its turn has come: nothing is changed then.
        RecordNotWritten when the disk does not take it for as long as it is tried (``RECORD_PAUSES``);
        whatever needed the record must not be done then.
        """
        async with self._saving:
            unless(self.operation)
            changed = dataclasses.replace(self.operation, **changes)
            self._observer("before record")
            await self._write(changed)
            self._observer("after record")

    async def _write(self, changed: Operation) -> None:
        """Each try writes the whole record anew: after a failed fsync another one proves nothing."""
        for pause in (*RECORD_PAUSES, None):
            try:
                await self._write_once(changed)
                return
            except OSError as error:
                if pause is None:
                    raise RecordNotWritten(
                        f"The record of {changed.kind} {changed.id} cannot be written: {error}.",
                        next_step="Make room on, or repair, the file system of the agent's state directory.",
                    ) from error
                log.warning(f"The record of {changed.id} cannot be written, trying again: {error}.")
            await asyncio.sleep(pause)

    async def _write_once(self, changed: Operation) -> None:
        """Shielded: a cancellation must not leave memory and disk with different records."""
        task = asyncio.ensure_future(asyncio.to_thread(self._journal.save, changed))
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            await until_done(task)
            if task.exception() is None:
                self.operation = self._keep_live(changed)
            raise
        self.operation = self._keep_live(changed)

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
