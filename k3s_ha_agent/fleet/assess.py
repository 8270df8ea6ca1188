"""What a cluster needs next, from what its agents say alone. Nothing here asks anybody anything."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Sequence, Set

from k3s_ha_agent.client import AgentStatus
from k3s_ha_agent.errors import AgentError, AgentUnreachable, Unavailable
from k3s_ha_agent.fleet.configuration import Cluster, Server
from k3s_ha_agent.model import ClusterView, Datastore, Kind, Operation, Outcome, Phase


class Need(enum.StrEnum):
    """What a server needs, or why it gets nothing."""

    NOTHING = "nothing"
    FOLLOW = "follow"
    """An operation is running on it, whoever began it."""
    MIGRATE = "migrate"
    JOIN = "join"
    HELD = "held"
    """It went back: an operation was rolled back, or somebody rolled back a success. Not sent forward again unasked."""
    BROKEN = "broken"
    """A rollback failed: a person is needed."""
    BLOCKED = "blocked"
    UNREACHABLE = "unreachable"
    FAILED = "failed"
    """Its agent answered with an error."""


IN_THE_WAY = (Need.BROKEN, Need.FAILED, Need.UNREACHABLE, Need.HELD, Need.BLOCKED)
"""Needs that keep the whole cluster from being touched, the gravest first."""


@dataclasses.dataclass(frozen=True, slots=True)
class Seen:
    """What one agent said, or why it did not. Operations are asked for before the status: one that
    ends in between is then followed, and never taken for one that left the server as it was."""

    server: Server
    status: AgentStatus | None = None
    operations: tuple[Operation, ...] = ()
    """Newest first."""
    error: AgentError | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    server: Server
    need: Need
    why: str
    operation: str | None = None
    """The id of the one to follow, or of the one that went back."""
    attempt: int = 1
    """The number of the next operation of its kind on this server."""


def assess(cluster: Cluster, seen: Sequence[Seen], *, retry: Set[str] = frozenset()) -> tuple[Finding, ...]:
    """One finding per server, in order. ``retry``: servers that may go forward again after they went back."""
    first = seen[0].status
    migrated = first is not None and first.node.datastore is Datastore.ETCD
    return tuple(_server(one, one.server is cluster.first, migrated, one.server.name in retry) for one in seen)


def in_the_way(findings: Sequence[Finding]) -> Finding | None:
    """The gravest reason not to begin anything on the cluster; None when nothing is in the way."""
    return next((f for need in IN_THE_WAY for f in findings if f.need is need), None)


def _server(seen: Seen, is_first: bool, migrated: bool, retry: bool) -> Finding:
    server = seen.server
    if seen.status is None:
        away = isinstance(seen.error, AgentUnreachable | Unavailable)
        return Finding(server, Need.UNREACHABLE if away else Need.FAILED, str(seen.error))
    running = next((o.id for o in seen.operations if o.phase is not Phase.FINISHED), None)
    if seen.status.running_operation is not None:
        running = seen.status.running_operation.id
    if running is not None:
        return Finding(server, Need.FOLLOW, f"{running} is running", running)
    node = seen.status.node
    kind = Kind.MIGRATE if is_first else Kind.JOIN
    forward = Need.MIGRATE if is_first else Need.JOIN
    wanted = Datastore.SQLITE if is_first else Datastore.NONE
    last = seen.operations[0] if seen.operations else None
    if last is not None and last.outcome is Outcome.ROLLBACK_FAILED and not (retry and node.datastore is wanted):
        return Finding(server, Need.BROKEN, f"{last.kind} {last.id} could not be undone: {last.reason}", last.id)
    if node.datastore is Datastore.ETCD:
        if not migrated and not is_first:
            return Finding(server, Need.BLOCKED, "runs on etcd while the first server does not: another cluster's?")
        return Finding(server, Need.NOTHING, "runs on etcd")
    if node.datastore is not wanted:
        return Finding(server, Need.BLOCKED, f"cannot {kind}: {node.datastore_detail}")
    attempt = 1 + sum(1 for o in seen.operations if o.kind is kind)
    if last is not None and _went_back(last) and not retry:
        return Finding(server, Need.HELD, _held_because(last), last.id, attempt)
    return Finding(server, forward, node.datastore_detail, attempt=attempt)


def _went_back(last: Operation) -> bool:
    if last.kind is Kind.ROLLBACK:
        return last.outcome is Outcome.SUCCEEDED
    return last.outcome is Outcome.ROLLED_BACK


def _held_because(last: Operation) -> str:
    if last.kind is Kind.ROLLBACK:
        return f"somebody rolled it back ({last.id}); --retry goes forward again"
    return f"{last.kind} {last.id} was rolled back: {last.reason}"


def of_one_cluster(seen: Sequence[Seen]) -> bool:
    """True when all servers see the same members, by etcd's ids."""
    return len({frozenset(member.id for member in view.members) for _, view in _views(seen)}) <= 1


def complaints(cluster: Cluster, seen: Sequence[Seen]) -> tuple[str, ...]:
    """What keeps the cluster from being proven: empty when every server is a healthy voter, and all see the same.

    Members are compared by etcd's ids, so that two clusters are never taken for one.
    """
    found = []
    needed = len(cluster.servers)
    if not of_one_cluster(seen):
        found.append("the servers do not see the same members: they are not one cluster")
    for server, view in _views(seen):
        voters = sum(1 for member in view.members if member.voter)
        # What could not be found out is not taken for healthy.
        sick = [member.name or member.id for member in view.members if not (member.healthy and member.answers)]
        if not view.members:
            found.append(f"{server.name}: {view.sentence}")
        elif len(view.members) != needed or voters != needed:
            found.append(f"{server.name} sees {len(view.members)} members, {voters} voters; needed: {needed}")
        if sick:
            found.append(f"{server.name} sees members that are not healthy: {', '.join(sorted(sick))}")
        if view.members and view.alarms != ():
            raised = "unknown" if view.alarms is None else ", ".join(view.alarms)
            found.append(f"{server.name}: etcd's alarms: {raised}")
    for one in seen:
        if one.status is None:
            found.append(f"{one.server.name} does not answer: {one.error}")
            continue
        node = one.status.node
        if one.status.cluster is None:
            found.append(f"{one.server.name}: its agent does not tell the members; upgrade it")
        if node.datastore is not Datastore.ETCD:
            found.append(f"{one.server.name} is not on etcd: {node.datastore_detail}")
        if node.api_ready is not True or node.node_ready is not True:
            found.append(f"{one.server.name}: its API server or its Node is not ready")
    return tuple(found)


def _views(seen: Sequence[Seen]) -> list[tuple[Server, ClusterView]]:
    return [(s.server, s.status.cluster) for s in seen if s.status is not None and s.status.cluster is not None]
