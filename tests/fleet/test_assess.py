"""What a cluster needs, told from what its agents say."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from k3s_ha_agent.client import AgentStatus, OperationSummary
from k3s_ha_agent.errors import AgentUnreachable, Forbidden
from k3s_ha_agent.fleet.assess import Need, Seen, assess, complaints, in_the_way
from k3s_ha_agent.fleet.configuration import Cluster, Options, Server
from k3s_ha_agent.model import (
    ClusterMember,
    ClusterView,
    Datastore,
    Kind,
    NodeState,
    Operation,
    Outcome,
    Phase,
    Quorum,
)

SERVERS = tuple(Server(name, f"unix:/{name}", "https://a:6443") for name in "ab")
CLUSTER = Cluster("c", SERVERS, Options())
ETCD, SQLITE, NONE = Datastore.ETCD, Datastore.SQLITE, Datastore.NONE


def member(name: str, **more: Any) -> ClusterMember:
    known = ClusterMember(f"id-{name}", name, name, "10.0.0.1", True, False, name == "a", True, True)
    return dataclasses.replace(known, **more)


def view(*members: ClusterMember, alarms: tuple[str, ...] | None = ()) -> ClusterView:
    return ClusterView(members, Quorum(2, 2, 0, 2), alarms, "2 servers.")


def operation(kind: Kind, outcome: Outcome | None) -> Operation:
    phase = Phase.DOING if outcome is None else Phase.FINISHED
    return Operation(f"{kind}-1", kind, {}, "t", (), phase=phase, outcome=outcome, reason="a reason")


def seen(number: int, datastore: Datastore, *operations: Operation, **more: Any) -> Seen:
    node = NodeState("k3s.service", "active", "v1", "n", True, (), True, datastore, f"{datastore} is there")
    status = AgentStatus("1", node, view(member("a"), member("b")), None, None)
    return Seen(SERVERS[number], dataclasses.replace(status, **more), operations)


def needs(*found: Seen, retry: bool = False) -> list[Need]:
    return [f.need for f in assess(CLUSTER, found, retry={"a", "b"} if retry else frozenset())]


BACK = operation(Kind.MIGRATE, Outcome.ROLLED_BACK)
DONE = operation(Kind.MIGRATE, Outcome.SUCCEEDED)
UNDONE = operation(Kind.ROLLBACK, Outcome.SUCCEEDED)
BROKEN = operation(Kind.MIGRATE, Outcome.ROLLBACK_FAILED)
RUNNING = operation(Kind.ROLLBACK, None)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (seen(0, SQLITE), seen(1, NONE), [Need.MIGRATE, Need.JOIN]),
        (seen(0, ETCD), seen(1, NONE), [Need.NOTHING, Need.JOIN]),
        (seen(0, ETCD, DONE), seen(1, ETCD), [Need.NOTHING, Need.NOTHING]),
        (seen(0, SQLITE), seen(1, ETCD), [Need.MIGRATE, Need.BLOCKED]),
        (seen(0, NONE), seen(1, SQLITE), [Need.BLOCKED, Need.BLOCKED]),
        (seen(0, Datastore.HALF_COPIED), seen(1, NONE), [Need.BLOCKED, Need.JOIN]),
        (seen(0, Datastore.EXTERNAL), seen(1, NONE), [Need.BLOCKED, Need.JOIN]),
        (seen(0, SQLITE, BACK), seen(1, NONE), [Need.HELD, Need.JOIN]),
        (seen(0, SQLITE, UNDONE, DONE), seen(1, NONE), [Need.HELD, Need.JOIN]),
        (seen(0, SQLITE, BROKEN), seen(1, NONE), [Need.BROKEN, Need.JOIN]),
        (seen(0, Datastore.HALF_COPIED, RUNNING), seen(1, NONE), [Need.FOLLOW, Need.JOIN]),
        (Seen(SERVERS[0], error=AgentUnreachable("x")), seen(1, ETCD), [Need.UNREACHABLE, Need.BLOCKED]),
        (Seen(SERVERS[0], error=Forbidden("x")), seen(1, NONE), [Need.FAILED, Need.JOIN]),
    ],
)
def test_what_a_server_needs(first: Seen, second: Seen, expected: list[Need]) -> None:
    assert needs(first, second) == expected


def test_an_operation_that_only_the_status_knows_is_followed() -> None:
    running = OperationSummary("m-2", Kind.MIGRATE, Phase.DOING, None, False, None, "t", None, None)
    found = assess(CLUSTER, [seen(0, SQLITE, running_operation=running), seen(1, NONE)])
    assert (found[0].need, found[0].operation) == (Need.FOLLOW, "m-2")


def test_attempts_are_counted_by_kind() -> None:
    found = assess(CLUSTER, [seen(0, SQLITE, BACK, UNDONE, DONE, BACK), seen(1, NONE)], retry={"a"})
    assert [(f.need, f.attempt) for f in found] == [(Need.MIGRATE, 4), (Need.JOIN, 1)]
    assert needs(seen(0, SQLITE, BROKEN), seen(1, NONE), retry=True)[0] is Need.MIGRATE
    assert needs(seen(0, Datastore.HALF_COPIED, BROKEN), seen(1, NONE), retry=True)[0] is Need.BROKEN


def test_the_gravest_counts() -> None:
    found = assess(CLUSTER, [seen(0, SQLITE, BACK), Seen(SERVERS[1], error=AgentUnreachable("x"))])
    way = in_the_way(found)
    assert way is not None and way.server.name == "b"
    assert in_the_way(assess(CLUSTER, [seen(0, SQLITE), seen(1, NONE)])) is None


BOTH = view(member("a"), member("b"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, None),
        ({"cluster": view(member("a"))}, "do not see the same members"),
        ({"cluster": view(member("a"), member("b", id="other"))}, "do not see the same members"),
        ({"cluster": view(member("a"), member("b", voter=False))}, "b sees 2 members, 1 voters; needed: 2"),
        ({"cluster": view(member("a"), member("b", healthy=False))}, "not healthy: b"),
        ({"cluster": view(member("a"), member("b", healthy=None))}, "not healthy: b"),
        ({"cluster": view(member("a", answers=False), member("b"))}, "not healthy: a"),
        ({"cluster": view(member("a"), member("b"), alarms=("NOSPACE",))}, "alarms: NOSPACE"),
        ({"cluster": view(member("a"), member("b"), alarms=None)}, "alarms: unknown"),
        ({"cluster": ClusterView((), None, None, "The members are not known.")}, "b: The members are not known."),
        ({"cluster": None}, "does not tell the members"),
    ],
)
def test_what_a_proof_needs(changes: dict[str, Any], said: str | None) -> None:
    found = complaints(CLUSTER, [seen(0, ETCD), seen(1, ETCD, **changes)])
    assert (said is None) == (found == ()) and (said is None or said in "; ".join(found))


def test_a_proof_needs_every_node_ready_and_on_etcd() -> None:
    for change in ({"node_ready": None}, {"api_ready": False}, {"datastore": SQLITE}):
        bad = seen(1, ETCD)
        assert bad.status is not None
        node = dataclasses.replace(bad.status.node, **change)  # type: ignore[arg-type]
        assert complaints(CLUSTER, [seen(0, ETCD), seen(1, ETCD, node=node)])
    assert complaints(CLUSTER, [seen(0, ETCD), Seen(SERVERS[1], error=AgentUnreachable("gone"))])
