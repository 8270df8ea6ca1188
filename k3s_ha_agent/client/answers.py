"""The agent's answers as values. Members a newer agent adds are ignored, missing ones are not made up."""

from __future__ import annotations

import dataclasses
import enum
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from k3s_ha_agent.client.problems import AnswerUnreadable
from k3s_ha_agent.model import (
    FORMAT,
    CheckResult,
    CheckStatus,
    ClusterMember,
    ClusterView,
    Datastore,
    Kind,
    NodeState,
    Operation,
    Outcome,
    Phase,
    Quorum,
    operation_from_record,
)

T = TypeVar("T")
EVENT_LIMIT = 1024 * 1024
"""Bytes of one event; more is not an event of an agent."""


@dataclasses.dataclass(frozen=True, slots=True)
class Submitted:
    operation: Operation
    replayed: bool
    """True when it was begun earlier under the same idempotency key."""


@dataclasses.dataclass(frozen=True, slots=True)
class OperationSummary:
    id: str
    kind: Kind
    phase: Phase
    outcome: Outcome | None
    committed: bool
    reason: str | None
    created_at: str
    finished_at: str | None
    deadline: str | None


@dataclasses.dataclass(frozen=True, slots=True)
class AgentStatus:
    agent_version: str
    node: NodeState
    cluster: ClusterView | None
    """None from an agent that does not tell it here."""
    running_operation: OperationSummary | None
    last_operation: OperationSummary | None


@dataclasses.dataclass(frozen=True, slots=True)
class Preflight:
    kind: Kind
    ok: bool
    checks: tuple[CheckResult, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class DryRun:
    """What an operation would do. ``raw`` is the whole answer, with estimates."""

    would_be_refused: bool
    checks: tuple[CheckResult, ...]
    steps: tuple[str, ...]
    raw: Mapping[str, Any]

    @property
    def refused(self) -> tuple[CheckResult, ...]:
        return tuple(check for check in self.checks if check.status is CheckStatus.REFUSED)


@dataclasses.dataclass(frozen=True, slots=True)
class ServerEvent:
    """An event of an operation. ``id`` None: not kept by the agent (progress), nothing to come back with."""

    id: int | None
    type: str
    time: str
    data: Mapping[str, Any]


def read(what: str, parse: Callable[[Any], T], value: Any) -> T:
    """Parse an answer; AnswerUnreadable when it is not as this version knows it."""
    try:
        return parse(value)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise AnswerUnreadable(
            f"The agent's answer ({what}) cannot be read: {type(error).__name__} {error}.",
            next_step="Use a client of the agent's version.",
        ) from error


def operation(value: Any) -> Operation:
    """What the API shows of an operation; what it does not show has its default."""
    return operation_from_record({**value, "format": FORMAT})


def operations(value: Any) -> tuple[Operation, ...]:
    return tuple(operation(one) for one in value["operations"])


def status(value: Any) -> AgentStatus:
    return AgentStatus(
        agent_version=value["agent"]["version"],
        node=_node(value["node"]),
        cluster=None if value.get("cluster") is None else members(value["cluster"]),
        running_operation=_summary(value["running_operation"]),
        last_operation=_summary(value["last_operation"]),
    )


def _node(value: Any) -> NodeState:
    known = {field.name: value[field.name] for field in dataclasses.fields(NodeState) if field.name in value}
    known["datastore"] = Datastore(known["datastore"])
    known["roles"] = None if known["roles"] is None else tuple(known["roles"])
    return NodeState(**known)


def _summary(value: Any) -> OperationSummary | None:
    if value is None:
        return None
    known = {field.name: value[field.name] for field in dataclasses.fields(OperationSummary)}
    kinds: dict[str, type[enum.StrEnum]] = {"kind": Kind, "phase": Phase, "outcome": Outcome}
    for name, kind in kinds.items():
        known[name] = None if known[name] is None else kind(known[name])
    return OperationSummary(**known)


def check(value: Any) -> CheckResult:
    return CheckResult(
        name=value["name"],
        status=CheckStatus(value["status"]),
        found=value["found"],
        needs=value.get("needs", ""),
        remedy=value.get("remedy", ""),
    )


def checks(value: Any) -> tuple[CheckResult, ...]:
    return tuple(check(one) for one in value)


def preflight(value: Any) -> Preflight:
    return Preflight(Kind(value["for"]), bool(value["ok"]), checks(value["checks"]))


def dry_run(value: Any) -> DryRun:
    return DryRun(
        would_be_refused=bool(value["would_be_refused"]),
        checks=checks(value["checks"]),
        steps=tuple(step["name"] for step in value["steps"]),
        raw=value,
    )


def members(value: Any) -> ClusterView:
    return ClusterView(
        members=tuple(_known(ClusterMember, one) for one in value["members"]),
        quorum=None if value["quorum"] is None else _known(Quorum, value["quorum"]),
        alarms=None if value["alarms"] is None else tuple(value["alarms"]),
        sentence=value["sentence"],
    )


def _known(kind: type[T], value: Any) -> T:
    """A dataclass of the members of a JSON object that it knows."""
    return kind(**{field.name: value[field.name] for field in dataclasses.fields(kind)})  # type: ignore[arg-type]


def backups(value: Any) -> tuple[Mapping[str, Any], ...]:
    return tuple(dict(one) for one in value["backups"])


class EventParser:
    """Server-sent events out of the bytes of a stream, however they are cut (HTML standard, "Server-sent events")."""

    def __init__(self) -> None:
        self._rest = b""
        self._fields: dict[str, str] = {}

    def feed(self, data: bytes) -> Iterator[ServerEvent]:
        """The events that are whole now. AnswerUnreadable for what is none."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > EVENT_LIMIT:
            raise AnswerUnreadable("The agent's events do not end.")
        for line in lines:
            text = line.decode(errors="replace").rstrip("\r")
            if text:
                name, _, value = text.partition(":")
                if name:  # a comment has none
                    self._fields[name] = value.removeprefix(" ")
            else:
                fields, self._fields = self._fields, {}
                if "data" in fields:
                    yield read("an event", _event, fields)


def _event(fields: Mapping[str, str]) -> ServerEvent:
    value = json.loads(fields["data"])
    identity = fields.get("id")
    return ServerEvent(
        id=None if identity is None else int(identity),
        type=fields.get("event", "message"),
        time=value["time"],
        data=dict(value["data"]),
    )
