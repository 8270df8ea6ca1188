"""The words of the agent as data: operations, their steps, what they prove, what a node is.

Everything here is frozen; a change makes a new value (``dataclasses.replace``). ``to_json`` and
``from_json`` are the one format of the durable record, of the API and of ``-o json``. Times are
RFC 3339 in UTC, durations seconds as float inside the program.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

FORMAT = 1
"""Version of the record's format. ``rescue.py`` reads it without importing this module."""


class Kind(enum.StrEnum):
    MIGRATE = "migrate"
    JOIN = "join"
    ROLLBACK = "rollback"


class Outcome(enum.StrEnum):
    """What became of it; kept apart from where it is (``Phase``)."""

    SUCCEEDED = "succeeded"
    ROLLED_BACK = "rolled_back"
    ROLLBACK_FAILED = "rollback_failed"
    REFUSED = "refused"


class Phase(enum.StrEnum):
    """Where an operation is. ``DOING`` goes forward, ``UNDOING`` goes back."""

    DOING = "doing"
    UNDOING = "undoing"
    FINISHED = "finished"


class StepStatus(enum.StrEnum):
    PENDING = "pending"
    DOING = "doing"
    DONE = "done"
    FAILED = "failed"
    UNDOING = "undoing"
    UNDONE = "undone"
    UNDO_FAILED = "undo_failed"


class Datastore(enum.StrEnum):
    """What the files below the data dir say k3s would start on (k3s-facts, "ten facts" 1 to 5)."""

    SQLITE = "sqlite"
    ETCD = "etcd"
    HALF_COPIED = "half-copied"
    """``member/wal`` exists and ``state.db`` still has its old name: a copy that did not end."""
    NONE = "none"
    EXTERNAL = "external"


class CheckStatus(enum.StrEnum):
    OK = "ok"
    WARNED = "warned"
    REFUSED = "refused"


@dataclasses.dataclass(frozen=True, slots=True)
class Progress:
    done: int
    total: int
    unit: str
    """What is counted: ``keys``, ``bytes``, ``seconds``."""


@dataclasses.dataclass(frozen=True, slots=True)
class Evidence:
    """One fact a result rests on, with what was measured."""

    name: str
    ok: bool
    value: str
    """What was found, in words or figures a person can read; never a secret or a value of a key."""
    needed: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class CheckResult:
    """What a preflight check found, what it needs and what to do."""

    name: str
    status: CheckStatus
    found: str
    needs: str = ""
    remedy: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class StepRecord:
    name: str
    status: StepStatus = StepStatus.PENDING
    started_at: str | None = None
    finished_at: str | None = None
    error: str | None = None
    progress: Progress | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Operation:
    """One migrate, join or rollback, as it is kept on disk and shown by the API.

    ``parameters`` is the request as validated, without secrets. ``facts`` is what steps remember
    for later steps and for a resumption (inode, counts, digests, paths), JSON values only.
    """

    id: str
    kind: Kind
    parameters: Mapping[str, Any]
    created_at: str
    steps: tuple[StepRecord, ...]
    phase: Phase = Phase.DOING
    outcome: Outcome | None = None
    finished_at: str | None = None
    deadline: str | None = None
    committed: bool = False
    reason: str | None = None
    """Why it was undone or failed, one sentence."""
    failed_evidence: tuple[str, ...] = ()
    evidence: tuple[Evidence, ...] = ()
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    boot_id: str = ""
    requested_by: str = ""
    abort_requested: bool = False
    finished_by: str = ""
    """``agent`` or ``rescue``."""
    idempotency_key: str | None = None
    request_digest: str = ""
    """SHA-256 of the request as sent; tells a replay from another request under the same key."""
    rescue: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """What ``rescue.py`` needs to bring the node back, as plain paths; empty outside the window."""

    def step(self, name: str) -> StepRecord:
        for step in self.steps:
            if step.name == name:
                return step
        raise KeyError(name)


def now() -> str:
    """The time as RFC 3339 in UTC with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def to_json(value: Any) -> Any:
    """Plain JSON values of any dataclass above, tuples as lists, enums as their string."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(k): to_json(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [to_json(v) for v in value]
    return value


def operation_to_record(operation: Operation) -> dict[str, Any]:
    """The operation as its durable record."""
    record: dict[str, Any] = {"format": FORMAT}
    record.update(to_json(operation))
    return record


def operation_from_record(record: Mapping[str, Any]) -> Operation:
    """The operation of a record.

    Raises KeyError, TypeError or ValueError when the record is not one of this format; unknown
    members are ignored, so that a record of a newer agent of the same format stays readable.
    """
    if record["format"] != FORMAT:
        raise ValueError(f"record of format {record['format']!r}, this agent reads {FORMAT}")
    known = {f.name for f in dataclasses.fields(Operation)}
    given: dict[str, Any] = {k: v for k, v in record.items() if k in known}
    given["kind"] = Kind(given["kind"])
    given["phase"] = Phase(given["phase"])
    given["outcome"] = None if given.get("outcome") is None else Outcome(given["outcome"])
    given["steps"] = tuple(_step_from(s) for s in given["steps"])
    given["evidence"] = tuple(Evidence(**e) for e in given.get("evidence", ()))
    given["failed_evidence"] = tuple(given.get("failed_evidence", ()))
    return Operation(**given)


def _step_from(record: Mapping[str, Any]) -> StepRecord:
    progress = record.get("progress")
    return StepRecord(
        name=record["name"],
        status=StepStatus(record["status"]),
        started_at=record.get("started_at"),
        finished_at=record.get("finished_at"),
        error=record.get("error"),
        progress=None if progress is None else Progress(**progress),
    )


@dataclasses.dataclass(frozen=True, slots=True)
class NodeState:
    """What ``GET /v1/status`` says about this server. ``None`` means: could not be found out."""

    unit: str
    unit_active_state: str | None
    k3s_version: str | None
    node_name: str | None
    node_ready: bool | None
    roles: tuple[str, ...] | None
    api_ready: bool | None
    datastore: Datastore
    datastore_detail: str
    """One sentence: the files the verdict rests on."""
    live_keys: int | None = None
    gate_closed: bool = False
    rescue_armed: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class ClusterMember:
    """A member of etcd as this server sees it. ``None`` means: could not be found out."""

    id: str
    """Hex, as etcdctl writes it."""
    name: str
    """Empty while it was added and never started."""
    node: str
    """The Node it belongs to, by its name ``<node>-<8 hex>``."""
    address: str
    """Host of its peer URL."""
    voter: bool
    learner: bool
    leader: bool | None
    answers: bool
    """Its etcd finished a TLS handshake with us, just now."""
    healthy: bool | None


@dataclasses.dataclass(frozen=True, slots=True)
class Quorum:
    voters: int
    needed: int
    """How many must be up."""
    tolerates: int
    """How many may fail when all are up."""
    up: int
    """How many answer now."""


@dataclasses.dataclass(frozen=True, slots=True)
class ClusterView:
    """What ``GET /v1/members`` says. No members and no quorum where there is no etcd or it does not answer."""

    members: tuple[ClusterMember, ...]
    quorum: Quorum | None
    alarms: tuple[str, ...] | None
    sentence: str


def availability(voters: int) -> str:
    """How many failures a cluster of so many voters survives, and what would be better (k3s-facts J11)."""
    if voters == 1:
        return "1 server: its failure stops the cluster; with two more it would survive one."
    if voters == 2:
        return "2 servers: one failure stops the cluster, add a third."
    survives = (voters - 1) // 2
    said = f"{voters} servers: {'one' if survives == 1 else survives} may fail"
    return f"{said}, no more than with {voters - 1}; add another." if voters % 2 == 0 else f"{said}."


@dataclasses.dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened in an operation, as ``/events`` sends it. ``id`` grows, also over restarts."""

    id: int
    time: str
    type: str
    """``step``, ``progress``, ``evidence``, ``decision`` or ``finished``."""
    data: Mapping[str, Any]
