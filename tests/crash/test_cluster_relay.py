"""Joins and leaves in which an agent dies at every act once, each time the next one going on or back."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import pytest

from tests.crash.cluster import ClusterNode, cluster
from tests.crash.quick_node import wait_for
from tests.crash.test_cluster import join, members, migrate, nothing_is_left_of
from tests.standin.networks import own_network

PATIENT = {"timeout": "20m"}
LIVES = 120


@pytest.fixture
def two(request: pytest.FixtureRequest) -> Iterator[list[ClusterNode]]:
    with own_network(), cluster(2, settings=getattr(request, "param", None) or {}) as nodes:
        migrate(nodes[0])
        yield nodes


def relay(node: ClusterNode, begin: Callable[[], str | None]) -> tuple[str, set[str]]:
    """The outcome, and the points at which an agent died."""
    node.stop_agent()
    node.trace.unlink(missing_ok=True)
    earlier = {record["id"] for record in node.records()}
    operation = None
    for _ in range(LIVES):
        node.start_agent("once")
        if operation is None:
            operation = begin() or next(r["id"] for r in node.records() if r["id"] not in earlier)
        over = functools.partial(settled, node, operation)
        wait_for(lambda over=over: not node.agent_lives() or over(), "the end of a life", 240)
        if node.agent_lives():
            break
    else:
        raise AssertionError(f"not ended after {LIVES} lives")
    node.stop_agent()
    died = {p.removesuffix(" DIED") for p in node.trace_text().splitlines() if p.endswith(" DIED")}
    record = next(r for r in node.records() if r["id"] == operation)
    return str(record["outcome"]), died


def settled(node: ClusterNode, operation: str | None) -> bool:
    record = next(r for r in node.records() if r["id"] == operation)
    ended = record["outcome"] is not None and record["phase"] == "finished"
    return ended and (not record["committed"] or all(s["status"] == "done" for s in record["steps"]))


def acts(node: ClusterNode, *kinds: str) -> set[str]:
    """Every act of the last operation's steps, ``before`` and ``after`` each."""
    steps = [s["name"] for s in node.records()[-1]["steps"]]
    return {f"{when} {kind} {step}" for when in ("before", "after") for kind in kinds for step in steps}


def begin_join(n1: ClusterNode, n2: ClusterNode) -> Callable[[], str | None]:
    body = {**PATIENT, "server": n1.url, "token_file": str(n1.token_for(n2))}
    return lambda: n2.begin("join", body)


def test_join_forward(two: list[ClusterNode]) -> None:
    n1, n2 = two
    outcome, died = relay(n2, begin_join(n1, n2))
    assert outcome == "succeeded"
    assert members(n1) == {"n1": True, "n2": True}
    assert acts(n2, "do") <= died, f"no death at {sorted(acts(n2, 'do') - died)}"


@pytest.mark.parametrize("two", [{"role_timeout": "4s"}], indirect=True)
def test_join_back(two: list[ClusterNode]) -> None:
    """The etcd role never comes: every step is undone, and each undo dies once before and once after."""
    n1, n2 = two
    n2.change_faults({"no_role": True})
    outcome, died = relay(n2, begin_join(n1, n2))
    assert outcome == "rolled_back"
    wait_for(lambda: members(n1) == {"n1": True}, "no member of n2 is left")
    nothing_is_left_of(n2)
    assert {p for p in died if "undo" in p}, "nothing died on the way back"
    assert {"before undo join-cluster", "after undo join-cluster", "before undo announce"} <= died


def test_leave(two: list[ClusterNode]) -> None:
    n1, n2 = two
    assert join(n2, n1)["outcome"] == "succeeded"
    outcome, died = relay(n2, lambda: n2.begin("rollback", PATIENT))
    assert outcome == "succeeded"
    assert members(n1) == {"n1": True}
    nothing_is_left_of(n2)
    assert acts(n2, "do") <= died, f"no death at {sorted(acts(n2, 'do') - died)}"
