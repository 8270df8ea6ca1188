"""Takes requests, refuses what must be refused, runs one operation at a time, resumes after a start."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any

import structlog

from k3s_ha_agent import durable
from k3s_ha_agent.errors import (
    AgentError,
    Conflict,
    IdempotencyKeyReused,
    LockHeld,
    OperationInProgress,
    RecordNotWritten,
    RecordUnreadable,
    Unavailable,
)
from k3s_ha_agent.host.lock import Lock, acquire
from k3s_ha_agent.host.messages import Message
from k3s_ha_agent.host.resources import boot_id
from k3s_ha_agent.model import (
    CheckResult,
    ClusterView,
    Event,
    Kind,
    NodeState,
    Operation,
    Outcome,
    Phase,
    StepStatus,
)
from k3s_ha_agent.operations import backups, pre_image, requests
from k3s_ha_agent.operations.engine import Engine, describe
from k3s_ha_agent.operations.events import EventBook
from k3s_ha_agent.operations.intake import Draft, Inspector, Intake
from k3s_ha_agent.operations.journal import Journal
from k3s_ha_agent.operations.live_run import LiveRun, refuse_abort
from k3s_ha_agent.operations.plan import Observer
from k3s_ha_agent.operations.planner import Planner
from k3s_ha_agent.operations.resume import Action, Decision, decide
from k3s_ha_agent.operations.threads import in_thread
from k3s_ha_agent.settings import Settings

log = structlog.get_logger("k3s_ha_agent.operations")
LOCK_TIMEOUT = 600.0
"""Seconds to wait for a rescue that is at work when the agent starts."""
SETTLE_PAUSE = 15.0
"""Seconds between the tries to settle what could not be: the disk took no record, the lock was held."""
HandOver = Callable[[Operation], Awaitable[None]]
"""Have the rescue bring the node back from an operation; see ``hand_over.py``."""


class OperationManager:
    """The operations of this server. Everything the API may ask for goes through here."""

    def __init__(
        self,
        settings: Settings,
        planner: Planner,
        inspector: Inspector,
        hand_over: HandOver,
        observer: Observer | None = None,
    ):
        self._settings = settings
        self._planner = planner
        self._inspector = inspector
        self._hand_over = hand_over
        self._given_up: set[str] = set()
        self._intake = Intake(settings, planner, inspector)
        self._journal = Journal(settings.state_dir)
        self._events = EventBook(self._journal)
        self._engine = Engine(
            self._journal, self._events.publish, undo_timeout=settings.undo_timeout, observer=observer
        )
        self._known: dict[str, Operation] = {}
        self._run: LiveRun | None = None
        self._preparing: str | None = None
        self._removing: str | None = None
        self._task: asyncio.Task[None] | None = None
        self._broken: RecordUnreadable | None = None
        self._boot_id = ""

    # --- life --------------------------------------------------------------------------------

    async def load(self) -> list[tuple[Operation, Decision]]:
        """Read the journal. What is unfinished is returned with what will be done about it.

        A record that cannot be read makes the agent refuse every operation; the gate, if closed,
        stays closed.
        """
        await in_thread(self._journal.prepare)
        await self._tidy_up()
        self._boot_id = boot_id()
        try:
            operations = await in_thread(self._journal.load_all)
        except RecordUnreadable as error:
            self._broken = error
            log.critical(str(error), message_id=Message.RECORD_UNREADABLE)
            return []
        self._known = {operation.id: operation for operation in operations}
        for operation in operations:
            self._events.settle(operation)
        unfinished = []
        for operation in operations:
            decision = self._decide(operation)
            if decision.action is not Action.NOTHING:
                unfinished.append((operation, decision))
        return unfinished

    async def _tidy_up(self) -> None:
        """What a request left whose first record was cut off, and copies that were; not while somebody else holds
        the lock."""
        try:
            held = await self._lock(0.0)
        except AgentError:
            return
        try:
            await in_thread(self._journal.remove_never_begun)
            await in_thread(pre_image.remove_all_temporary, self._settings.state_dir)
        except OSError as error:
            log.warning(f"What was cut off earlier cannot be removed: {error}.")
        finally:
            held.release()

    def _decide(self, operation: Operation) -> Decision:
        deadline = operation.facts.get("deadline_boottime")
        passed = deadline is not None and time.clock_gettime(time.CLOCK_BOOTTIME) > float(deadline)
        plan = self._planner.plan(operation)
        interference = self._interference(operation)
        return decide(operation, plan, boot_id=self._boot_id, deadline_passed=passed, interference=interference)

    def _interference(self, operation: Operation) -> str:
        """What was done behind the back of the record, by a rescue that could not write it or by a person; or that
        we had to give it up before, whatever has become of it since."""
        if operation.id in self._given_up:
            return "could not be gone on with"
        closed = any(s.name == "close-gate" and s.status is StepStatus.DONE for s in operation.steps)
        return "lost its gate" if closed and not self._settings.gate.exists() else ""

    def resume(self, unfinished: list[tuple[Operation, Decision]]) -> None:
        """Go on with, or undo, what an earlier agent left."""
        names = [operation.id for operation, _ in unfinished]
        if names:
            self._task = asyncio.create_task(self._settle(names), name="resume")

    async def _settle(self, unfinished: Sequence[str]) -> None:
        """Go on with each operation, again and again until it has ended."""
        while True:
            for operation_id in unfinished:
                await self._settle_one(operation_id)
            unfinished = [i for i in unfinished if self._known[i].outcome is None]
            if not unfinished:
                return
            await asyncio.sleep(SETTLE_PAUSE)

    async def _settle_one(self, operation_id: str) -> None:
        try:
            held = await self._lock(LOCK_TIMEOUT)
            try:
                # The rescue may have ended it while we waited for the lock.
                operation = await in_thread(self._journal.load, operation_id)
                self._known[operation_id] = operation
                self._events.settle(operation)
                decision = self._decide(operation)
                if decision.action is not Action.NOTHING:
                    await self._resume(operation, decision)
            finally:
                held.release()
        except Exception as error:  # noqa: BLE001 - said aloud; the rescue, and the next try, bring the node back
            await self._stuck(self._known[operation_id], error)

    async def _stuck(self, operation: Operation, error: Exception) -> None:
        """It cannot be gone on with: a disk that takes no record, a lock that stays held, or a bug."""
        bug = None if isinstance(error, AgentError | OSError) else error
        log.critical(
            f"{operation.kind} {operation.id} stopped: {describe(error)}",
            operation=operation.id,
            message_id=Message.STOPPED_UNEXPECTEDLY,
            exc_info=bug,
        )
        if operation.outcome is not None or operation.committed or isinstance(error, LockHeld):
            return
        if operation.id not in self._given_up:
            self._given_up.add(operation.id)
            if operation.rescue:
                await self._hand_over(operation)

    async def _resume(self, operation: Operation, decision: Decision) -> None:
        plan = self._planner.plan(operation)
        run = self._begin(operation)
        run.decide(decision.sentence, Message.RESUMED)
        try:
            if decision.action in (Action.GO_ON, Action.FINISH):
                await self._engine.run(plan, run)
            else:
                await self._engine.undo(plan, run, reason=decision.sentence)
        finally:
            self._end(run)

    async def close(self) -> None:
        """Stop working on the operation without touching it: later, not never."""
        if self._task is not None and not self._task.done():
            if self._run is not None:
                run = self._run.operation
                log.warning(
                    f"Stopping in the middle of {run.kind} {run.id}; the next start of the agent goes on with it.",
                    operation=run.id,
                    kind=run.kind.value,
                    message_id=Message.STOPPED_MIDWAY,
                )
            self._task.cancel()
            await asyncio.wait({self._task})

    # --- what the API asks -------------------------------------------------------------------

    def get(self, operation_id: str) -> Operation:
        if self._run is not None and self._run.operation.id == operation_id:
            return self._run.operation
        known = self._known.get(operation_id)
        if known is None:
            return self._journal.load(operation_id)
        if known.outcome is Outcome.ROLLBACK_FAILED:
            # A person may have run the rescue since, which settles it in the record.
            known = self._known[operation_id] = self._journal.load(operation_id)
        return known

    def list(self) -> Sequence[Operation]:
        """Every operation, newest first."""
        return self._newest_first()

    def _newest_first(self) -> Sequence[Operation]:
        return sorted((self.get(i) for i in self._known), key=lambda o: (o.created_at, o.id), reverse=True)

    def running(self) -> Operation | None:
        return None if self._run is None else self._run.operation

    def idle(self) -> bool:
        """Nothing is running, being prepared, or about to be resumed."""
        return self._run is None and self._preparing is None and (self._task is None or self._task.done())

    async def status(self) -> NodeState:
        return await self._inspector.survey()

    async def members(self) -> ClusterView:
        return await self._inspector.cluster()

    async def backups(self) -> Sequence[Mapping[str, Any]]:
        return await in_thread(backups.listed, self._settings.state_dir, self._newest_first())

    async def backup(self, operation_id: str, *, verify: bool) -> Mapping[str, Any]:
        """One pre-image; ``verify`` reads all of it. NotFound."""
        work = functools.partial(backups.one, verify=verify)
        return await in_thread(work, self._settings.state_dir, self._newest_first(), operation_id)

    async def remove_backup(self, operation_id: str) -> Mapping[str, Any]:
        """Remove a pre-image nobody needs. NotFound, Conflict, OperationInProgress or LockHeld."""
        if self._broken is not None:
            raise self._broken
        self._refuse_busy()
        self._removing = operation_id
        try:
            held = await self._lock(0.0)
            try:
                removed = await in_thread(backups.remove, self._settings.state_dir, self._newest_first(), operation_id)
            finally:
                held.release()
        finally:
            self._removing = None
        log.info(
            f"The pre-image of {operation_id} was removed on request.",
            operation=operation_id,
            message_id=Message.BACKUP_REMOVED,
        )
        return removed

    async def preflight(self, kind: Kind) -> tuple[CheckResult, ...]:
        return (await self._inspector.examine(kind, accept_slow_disk=False, history=self._newest_first())).checks

    async def events(self, operation_id: str, after: int = 0) -> AsyncIterator[Event]:
        self.get(operation_id)
        async for event in self._events.follow(operation_id, after):
            yield event

    async def wait(self, operation_id: str, timeout: float) -> Operation | None:
        """The operation once it has ended, None when it has not within ``timeout`` seconds."""
        end = time.monotonic() + timeout
        while True:
            operation = self.get(operation_id)
            if operation.outcome is not None:
                return operation
            if time.monotonic() >= end:
                return None
            await asyncio.sleep(min(0.2, max(0.01, end - time.monotonic())))

    async def abort(self, operation_id: str, *, requested_by: str) -> Operation:
        operation = self.get(operation_id)
        if operation.outcome is not None:
            raise Conflict(f"The {operation.kind} {operation.id} has already ended as {operation.outcome}.")
        no_way_back = self._planner.plan(operation).no_way_back
        refuse_abort(operation, no_way_back)
        run = self._run
        if run is None or run.operation.id != operation_id:
            raise Unavailable(f"The {operation.kind} {operation.id} is about to be resumed; ask again in a moment.")
        if run.operation.phase is Phase.DOING:
            await run.request_abort(no_way_back)
            run.decide(f"Abort requested by {requested_by}.")
        return run.operation

    # --- beginning an operation ----------------------------------------------------------------

    async def dry_run(self, kind: Kind, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """What would be done, with estimates; nothing is changed."""
        request = requests.parse(kind, body)
        return await self._intake.describe(await self._draft(kind, request, "dry-run"))

    async def submit(
        self, kind: Kind, body: Mapping[str, Any], *, requested_by: str, idempotency_key: str | None
    ) -> tuple[Operation, bool]:
        """Begin an operation, or say why not. The bool: this is the answer to an earlier same request."""
        digest = requests.digest(kind, body)
        replayed = self._replay(idempotency_key, digest)
        if replayed is not None:
            return replayed, True
        request = requests.parse(kind, body)
        operation_id = f"{time.strftime('%Y%m%dt%H%M%S', time.gmtime())}-{kind.value}-{secrets.token_hex(3)}"
        self._refuse_conflicts(kind)
        self._preparing = operation_id
        try:
            draft = await self._draft(kind, request, operation_id)
            if draft.refused:
                log.warning(
                    f"{kind} refused by preflight: {', '.join(c.name for c in draft.refused)}.",
                    kind=kind.value,
                    message_id=Message.REFUSED,
                )
            await self._intake.refuse_conflict(request, draft)
            draft.require_passed()
            await self._intake.confirm_losses(request, draft.operation)
            operation = dataclasses.replace(
                draft.operation, requested_by=requested_by, idempotency_key=idempotency_key, request_digest=digest
            )
            held = await self._lock(0.0)
            try:
                # From here the operation exists: a crash now leaves a record that the next start goes on with.
                await self._write_first_record(operation, draft.token)
            except BaseException:
                held.release()
                raise
            run = self._begin(operation)
            for check in draft.warned:
                run.decide(f"Warned by {check.name}: {check.found}")
            self._task = asyncio.create_task(self._drive(run, held), name=operation.id)
            return run.operation, False
        finally:
            self._preparing = None

    async def _write_first_record(self, operation: Operation, token: str | None) -> None:
        """When it cannot be made durable the caller is told so, and no later start may go on with it."""
        try:
            if token is not None:
                await in_thread(self._keep_token, operation.id, token)
            await in_thread(self._journal.save, operation)
        except OSError as error:
            with contextlib.suppress(OSError):
                await in_thread(self._journal.discard, operation.id)
                await in_thread(durable.remove, self._planner.token_path(operation.id))
            raise self._not_written(f"The {operation.kind} was not begun: its record", error) from error

    def _not_written(self, what: str, error: OSError) -> RecordNotWritten:
        return RecordNotWritten(
            f"{what} cannot be written ({error}).",
            next_step=f"Make room on, or repair, the file system of {self._settings.state_dir}.",
        )

    async def _draft(self, kind: Kind, request: requests.Request, operation_id: str) -> Draft:
        history = self._newest_first()
        return await self._intake.draft(
            kind, request, operation_id=operation_id, history=history, boot_id=self._boot_id
        )

    def _keep_token(self, operation_id: str, token: str) -> None:
        """Put a request's token where only root reads it, before the record that needs it."""
        path = self._planner.token_path(operation_id)
        durable.make_directory(path.parent)
        durable.write(path, token.encode() + b"\n")

    def _replay(self, key: str | None, digest: str) -> Operation | None:
        if key is None:
            return None
        for operation in self._newest_first():
            if operation.idempotency_key == key:
                if operation.request_digest != digest:
                    raise IdempotencyKeyReused(
                        f"The Idempotency-Key was used for {operation.kind} {operation.id} with another body.",
                        next_step="Use a new key for a new request.",
                        operation=operation.id,
                    )
                return operation
        return None

    def _refuse_conflicts(self, kind: Kind) -> None:
        if self._broken is not None:
            raise self._broken
        self._refuse_busy()
        known = self._newest_first()
        left = next((o for o in known if o.outcome is None and o.phase is Phase.UNDOING), None)
        if left is not None:
            raise Conflict(
                f"The rescue took {left.kind} {left.id} back as far as it could; the agent's next start does the rest.",
                next_step="Run: systemctl restart k3s-ha-agent.service",
                operation=left.id,
            )
        failed = next((o for o in known if o.outcome is not None), None)
        if failed is not None and failed.outcome is Outcome.ROLLBACK_FAILED and failed.rescue:
            raise Conflict(
                f"The rollback of {failed.kind} {failed.id} failed and is not settled: {failed.reason}",
                next_step="Run: systemctl start k3s-ha-agent-rescue.service",
                operation=failed.id,
            )

    def _refuse_busy(self) -> None:
        if self._removing is not None:
            raise Conflict(
                f"The pre-image of {self._removing} is being removed.", next_step="Ask again in some seconds."
            )
        busy = self._preparing or (self._run.operation.id if self._run is not None else None)
        if busy is None and self._task is not None and not self._task.done():
            busy = next((o.id for o in self._newest_first() if o.outcome is None), None)
        if busy is not None:
            raise OperationInProgress(
                f"{busy} is running; one operation at a time.",
                next_step=f"Follow it: k3s-ha-agentctl watch {busy}",
                operation=busy,
            )

    # --- running it ------------------------------------------------------------------------------

    async def _lock(self, timeout: float) -> Lock:
        try:
            return await acquire(self._settings.state_dir / "lock", "agent", timeout)
        except OSError as error:
            raise self._not_written("The lock", error) from error

    def _begin(self, operation: Operation) -> LiveRun:
        run = self._engine.live(operation)
        run.continue_events_after(self._events.last_id(operation.id))
        self._known[operation.id] = operation
        self._run = run
        return run

    def _end(self, run: LiveRun) -> None:
        self._known[run.operation.id] = run.operation
        self._run = None

    async def _drive(self, run: LiveRun, held: Lock) -> None:
        try:
            try:
                run.decide(
                    f"Beginning {run.operation.kind} {run.operation.id} for {run.operation.requested_by}.",
                    Message.BEGUN,
                )
                await self._engine.run(self._planner.plan(run.operation), run)
            finally:
                self._end(run)
                held.release()
        except Exception as error:  # noqa: BLE001 - the engine handles what steps do wrong; this is worse
            await self._stuck(run.operation, error)
            await self._settle([run.operation.id])
