"""An operation manager that changes nothing: it plays operations out in memory.

It stands outside the API, where the real manager stands, and keeps the same contract
(``k3s_ha_agent.api.manager``): operations advance by themselves, are aborted and undone, are
refused, and are found again after a restart when a directory is given. What it plays is set by
``Play``; time is never the measure of a test: ``hold_at`` stops an operation before a step until
it is released.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

from k3s_ha_agent.errors import (
    AlreadyCommitted,
    Conflict,
    IdempotencyKeyReused,
    InvalidBody,
    LostWritesNotConfirmed,
    NotFound,
    OperationInProgress,
    PreflightFailed,
)
from k3s_ha_agent.model import (
    CheckResult,
    CheckStatus,
    ClusterMember,
    ClusterView,
    Datastore,
    Event,
    Evidence,
    Kind,
    NodeState,
    Operation,
    Outcome,
    Phase,
    Progress,
    Quorum,
    StepRecord,
    StepStatus,
    availability,
    now,
    operation_from_record,
    operation_to_record,
    to_json,
)
from k3s_ha_agent.operations import requests

STEPS = ("save-pre-image", "close-gate", "stop-k3s", "start-k3s", "prove", "commit", "clean-up")
COMMITMENT = "commit"
KEYS = 1245
CHECKS = (
    CheckResult("version", CheckStatus.OK, "k3s v1.22.2+k3s1", "≥ v1.22.2"),
    CheckResult("disk-speed", CheckStatus.WARNED, "fsync p99 12 ms", "10 ms", "Use an SSD."),
)
REFUSED_CHECK = CheckResult(
    "leftovers", CheckStatus.REFUSED, "db/etcd/member/wal beside state.db", "no half copy", "Move db/etcd away."
)


@dataclasses.dataclass
class Play:
    """How operations go."""

    fail_in: str | None = None
    """The step that fails; everything before it is undone."""
    undo_fails: bool = False
    refused: bool = False
    """Preflight refuses."""
    writes_since: bool = False
    """A rollback would lose writes."""
    hold_at: str | None = None
    """The step an operation waits before, until ``release``."""
    damaged: bool = False
    """Every pre-image is found damaged."""
    bug: str | None = None
    """The text of an unexpected exception that ``status`` raises."""
    members: int = 0
    """Of the etcd cluster; none on SQLite."""


class MemoryManager:
    def __init__(self, play: Play | None = None, directory: Path | None = None) -> None:
        self.play = play or Play()
        self.directory = directory
        self.operations: dict[str, Operation] = {}
        self.sent: dict[str, list[Event]] = {}
        self.keys: dict[str, tuple[str, str]] = {}
        self.removed: set[str] = set()
        self.changed = asyncio.Condition()
        self.released = asyncio.Event()
        self.in_submit = asyncio.Event()
        self.submit_may_end = asyncio.Event()
        self.submit_may_end.set()
        self.waiting = 0
        self.following = 0
        self.tasks: set[asyncio.Task[None]] = set()

    # --- the contract --------------------------------------------------------------------------

    async def submit(
        self, kind: Kind, body: Mapping[str, Any], /, *, requested_by: str, idempotency_key: str | None
    ) -> tuple[Operation, bool]:
        self.in_submit.set()
        await self.submit_may_end.wait()
        digest = hashlib.sha256(json.dumps([kind, body], sort_keys=True).encode()).hexdigest()
        if idempotency_key in self.keys:
            earlier, its_digest = self.keys[idempotency_key]
            if its_digest != digest:
                raise IdempotencyKeyReused("The key was used for another request.", operation=earlier)
            return self.operations[earlier], True
        self._validate(kind, body)
        running = self.running()
        if running is not None:
            raise OperationInProgress(f"{running.kind} {running.id} is running.", operation=running.id)
        if self.play.refused:
            raise PreflightFailed("1 of 3 checks refused.", checks=[*CHECKS, REFUSED_CHECK])
        operation = Operation(
            id=f"op-{len(self.operations) + 1}",
            kind=kind,
            parameters={k: v for k, v in body.items() if k not in ("dry_run", *requests.SECRET)},
            created_at=now(),
            steps=tuple(StepRecord(name) for name in STEPS),
            deadline="2099-01-01T00:00:00Z",
            requested_by=requested_by,
            idempotency_key=idempotency_key,
            request_digest=digest,
            rescue={"state_db": "/var/lib/rancher/k3s/server/db/state.db"},
            facts={"inode": 4711, "bootstrap_password": "hunter2", "nested": {"token": "K10abc", "rows": 3}},
        )
        if idempotency_key is not None:
            self.keys[idempotency_key] = (operation.id, digest)
        self.sent[operation.id] = []
        self._save(operation)
        self._run(operation.id)
        return operation, False

    async def dry_run(self, kind: Kind, body: Mapping[str, Any], /) -> Mapping[str, Any]:
        self._validate(kind, body)
        checks = (*CHECKS, REFUSED_CHECK) if self.play.refused else CHECKS
        return {
            "kind": kind.value,
            "would_be_refused": self.play.refused,
            "refused_by": [c.name for c in checks if c.status is CheckStatus.REFUSED],
            "checks": to_json(checks),
            "parameters": {k: v for k, v in body.items() if k not in ("dry_run", *requests.SECRET)},
            "steps": [{"name": s, "after_commitment": s == "clean-up"} for s in STEPS],
            "estimates": {"live_keys": KEYS, "live_bytes": 2048, "timeout_seconds": 300.0, "fsync_p99_seconds": None},
        }

    async def preflight(self, kind: Kind, /) -> tuple[CheckResult, ...]:
        if kind is Kind.JOIN:
            raise InvalidBody("The checks of a join ask a server, and none is named.", next_step="POST /v1/join")
        return (*CHECKS, REFUSED_CHECK) if self.play.refused else CHECKS

    def get(self, operation_id: str, /) -> Operation:
        if operation_id not in self.operations:
            raise NotFound(f"There is no operation {operation_id!r}.")
        return self.operations[operation_id]

    def list(self) -> list[Operation]:
        return list(reversed(self.operations.values()))

    def running(self) -> Operation | None:
        return next((o for o in self.operations.values() if o.phase is not Phase.FINISHED), None)

    async def wait(self, operation_id: str, timeout: float, /) -> Operation | None:
        self.waiting += 1
        try:
            async with asyncio.timeout(timeout), self.changed:
                await self.changed.wait_for(lambda: self.get(operation_id).phase is Phase.FINISHED)
        except TimeoutError:
            return None
        finally:
            self.waiting -= 1
        return self.get(operation_id)

    async def abort(self, operation_id: str, /, *, requested_by: str) -> Operation:
        operation = self.get(operation_id)
        if operation.phase is Phase.FINISHED:
            raise Conflict(f"{operation_id} has finished.")
        if operation.committed:
            raise AlreadyCommitted(f"{operation_id} is committed.")
        self._save(dataclasses.replace(operation, abort_requested=True))
        self.released.set()
        return self.get(operation_id)

    async def events(self, operation_id: str, after: int = 0, /) -> AsyncIterator[Event]:
        self.following += 1
        try:
            while True:
                for event in self.sent[operation_id]:
                    if event.id > after:
                        yield event
                        after = event.id
                        if event.type == "finished":
                            return
                async with self.changed:
                    if self.get(operation_id).phase is Phase.FINISHED and self.sent[operation_id][-1].id <= after:
                        return
                    await self.changed.wait()
        finally:
            self.following -= 1

    async def status(self) -> NodeState:
        if self.play.bug is not None:
            raise RuntimeError(self.play.bug)
        return NodeState(
            unit="k3s.service",
            unit_active_state="active",
            k3s_version="v1.22.2+k3s1",
            node_name="n1",
            node_ready=True,
            roles=("control-plane", "master"),
            api_ready=True,
            datastore=Datastore.SQLITE,
            datastore_detail="state.db is there, db/etcd/member/wal is not.",
            live_keys=KEYS,
        )

    async def members(self) -> ClusterView:
        if self.play.members < 1:
            return ClusterView((), None, None, "This server runs on SQLite and stands alone.")
        voters = self.play.members
        shown = tuple(
            ClusterMember(f"{n:x}", f"n{n}-0000000{n}", f"n{n}", f"10.99.0.1{n}", True, False, n == 1, True, True)
            for n in range(1, voters + 1)
        )
        needed = voters // 2 + 1
        return ClusterView(shown, Quorum(voters, needed, voters - needed, voters), (), availability(voters))

    async def backups(self) -> list[Mapping[str, Any]]:
        return [self._backup(o) for o in reversed(self.operations.values()) if o.id not in self.removed]

    async def backup(self, operation_id: str, /, *, verify: bool) -> Mapping[str, Any]:
        backup = await self._find_backup(operation_id)
        damaged = verify and self.play.damaged
        problem = "sealed.db of the pre-image is not what its manifest says." if damaged else None
        return {**backup, "verified": not damaged if verify else None, "problem": problem}

    async def remove_backup(self, operation_id: str, /) -> Mapping[str, Any]:
        backup = await self._find_backup(operation_id)
        running = self.running()
        if running is not None:
            raise OperationInProgress(f"{running.kind} {running.id} is running.", operation=running.id)
        if backup["needed"]:
            raise Conflict("It is what a rollback would put back.")
        self.removed.add(operation_id)
        return backup

    async def _find_backup(self, operation_id: str) -> Mapping[str, Any]:
        for backup in await self.backups():
            if backup["operation"] == operation_id:
                return backup
        raise NotFound(f"There is no pre-image of {operation_id!r}.")

    def _backup(self, operation: Operation) -> Mapping[str, Any]:
        return {
            "operation": operation.id,
            "path": f"/var/lib/k3s-ha-agent/backups/{operation.id}",
            "sealed": True,
            "bytes": 4096,
            "created_at": operation.created_at,
            "outcome": operation.outcome.value if operation.outcome else None,
            "k3s_version": "v1.22.2+k3s1",
            "needed": operation is list(self.operations.values())[-1],
        }

    # --- playing an operation --------------------------------------------------------------------

    def load(self) -> None:
        """What an earlier process left; unfinished operations go on."""
        assert self.directory is not None
        for path in sorted(self.directory.glob("*.record")):
            operation = operation_from_record(json.loads(path.read_text()))
            self.operations[operation.id] = operation
            kept = path.with_suffix(".events").read_text().splitlines()
            self.sent[operation.id] = [Event(**json.loads(line)) for line in kept]
            if operation.phase is not Phase.FINISHED:
                self._run(operation.id)

    async def stop(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    def _run(self, operation_id: str) -> None:
        task = asyncio.ensure_future(self._advance(operation_id))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _advance(self, operation_id: str) -> None:
        for name in STEPS:
            if self.get(operation_id).step(name).status is StepStatus.DONE:
                continue
            await self._mark(operation_id, name, StepStatus.DOING)
            if name == self.play.hold_at:
                await self._held()
            operation = self.get(operation_id)
            if name == self.play.fail_in or (operation.abort_requested and not operation.committed):
                await self._undo(operation_id, name)
                return
            if name == "start-k3s":
                for done in (0, KEYS // 2, KEYS):
                    await self._progress(operation_id, name, Progress(done, KEYS, "keys"))
            if name == "prove":
                await self._evidence(operation_id, Evidence("keys-equal", True, f"{KEYS} = {KEYS}", "all"))
            committed = operation.committed or name == COMMITMENT
            await self._mark(operation_id, name, StepStatus.DONE, committed=committed)
        await self._finish(operation_id, Outcome.SUCCEEDED)

    async def _held(self) -> None:
        while not self.released.is_set() and not (self.directory and (self.directory / "release").exists()):
            await asyncio.sleep(0.01)

    async def _undo(self, operation_id: str, failed: str) -> None:
        aborted = self.get(operation_id).abort_requested
        reason = "The operation was aborted on request." if aborted else "keys-equal: found 1244, needed 1245."
        if not aborted:
            await self._evidence(operation_id, Evidence("keys-equal", False, "1244", "1245"))
        await self._mark(operation_id, failed, StepStatus.FAILED, error=reason, phase=Phase.UNDOING, reason=reason)
        await self._emit(operation_id, "decision", sentence=f"Undoing the operation: {reason}")
        for name in reversed(STEPS[: STEPS.index(failed) + 1]):
            if self.play.undo_fails and name == "stop-k3s":
                await self._mark(operation_id, name, StepStatus.UNDO_FAILED, error="k3s does not start.")
                await self._finish(operation_id, Outcome.ROLLBACK_FAILED)
                return
            await self._mark(operation_id, name, StepStatus.UNDONE)
        await self._finish(operation_id, Outcome.ROLLED_BACK)

    async def _finish(self, operation_id: str, outcome: Outcome) -> None:
        operation = self.get(operation_id)
        self._save(
            dataclasses.replace(
                operation, phase=Phase.FINISHED, outcome=outcome, finished_at=now(), finished_by="agent", rescue={}
            )
        )
        await self._emit(operation_id, "finished", outcome=outcome.value)

    async def _mark(
        self, operation_id: str, name: str, status: StepStatus, *, error: str | None = None, **changes: Any
    ) -> None:
        operation = self.get(operation_id)
        doing = status is StepStatus.DOING
        steps = tuple(
            dataclasses.replace(
                s,
                status=status,
                error=error,
                started_at=now() if doing else s.started_at,
                finished_at=None if doing else now(),
            )
            if s.name == name
            else s
            for s in operation.steps
        )
        self._save(dataclasses.replace(operation, steps=steps, **changes))
        await self._emit(operation_id, "step", step=name, status=status.value, error=error)

    async def _progress(self, operation_id: str, name: str, progress: Progress) -> None:
        operation = self.get(operation_id)
        steps = tuple(dataclasses.replace(s, progress=progress) if s.name == name else s for s in operation.steps)
        self._save(dataclasses.replace(operation, steps=steps))
        await self._emit(operation_id, "progress", **to_json(progress))

    async def _evidence(self, operation_id: str, evidence: Evidence) -> None:
        operation = self.get(operation_id)
        failed = operation.failed_evidence if evidence.ok else (*operation.failed_evidence, evidence.name)
        self._save(dataclasses.replace(operation, evidence=(*operation.evidence, evidence), failed_evidence=failed))
        await self._emit(operation_id, "evidence", **to_json(evidence))

    async def _emit(self, operation_id: str, type_: str, **data: Any) -> None:
        events = self.sent[operation_id]
        events.append(Event(events[-1].id + 1 if events else 1, now(), type_, data))
        self._save(self.get(operation_id))
        async with self.changed:
            self.changed.notify_all()

    def _save(self, operation: Operation) -> None:
        self.operations[operation.id] = operation
        if self.directory is not None:
            record = self.directory / f"{operation.id}.record"
            durable = [e for e in self.sent[operation.id] if e.type != "progress"]
            lines = [json.dumps(to_json(event)) for event in durable]
            record.with_suffix(".events").write_text("\n".join(lines))
            temporary = record.with_suffix(".new")
            temporary.write_text(json.dumps(operation_to_record(operation)))
            temporary.rename(record)

    def _validate(self, kind: Kind, body: Mapping[str, Any]) -> None:
        request = requests.parse(kind, body)
        if isinstance(request, requests.RollbackRequest):
            requests.refuse_keep(request)
        if kind is Kind.ROLLBACK and self.play.writes_since and body.get("confirm_lost_writes") is not True:
            raise LostWritesNotConfirmed("7 keys would be lost.", next_step="Confirm it.", lost_keys=7)
