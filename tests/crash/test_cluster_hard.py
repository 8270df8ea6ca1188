"""Joins and leaves in which the cluster is not where one would like it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.crash.cluster import ClusterNode, cluster
from tests.crash.quick_node import wait_for
from tests.crash.test_cluster import JOIN, finish, join, members, migrate, nothing_is_left_of, stable
from tests.standin.networks import own_network


@pytest.fixture
def slow_tick() -> Iterator[list[ClusterNode]]:
    """Long enough between two promotions to die in between, as the 15 seconds of a real server are."""
    with own_network(), cluster(2, speed={"promote_tick": 8.0}) as nodes:
        yield nodes


def join_until_a_learner(n1: ClusterNode, n2: ClusterNode) -> str:
    n2.start_agent()
    body = {"timeout": "120s", "server": n1.url, "token_file": str(n1.token_for(n2))}
    operation = n2.begin("join", body)
    assert operation is not None
    wait_for(lambda: members(n1).get("n2") is False, "n2 is a learner whose etcd runs")
    return operation


@pytest.mark.parametrize("who", ["abort", "rescue", "power"])
def test_taken_back_as_a_learner(slow_tick: list[ClusterNode], who: str) -> None:
    """etcd promotes a learner that has caught up whether it lives or not: stopped before it votes, it would be the
    dead second voter of two."""
    n1, n2 = slow_tick
    before = migrate(n1)
    operation = join_until_a_learner(n1, n2)
    if who == "abort":
        assert n2.api("POST", f"/v1/operations/{operation}/abort")[0] == 202
    elif who == "rescue":
        n2.stop_agent(9)
        done = n2.run_rescue()
        assert done.returncode == 0, done.stdout
        n2.start_agent()
    else:
        n2.power_fails()
        n2.power_returns()
    ended = n2.finish(operation)
    assert ended["outcome"] == "rolled_back", ended
    assert members(n1) == {"n1": True}
    assert stable(n1.etcd_keys()) == stable(before), "n1 answers alone"
    nothing_is_left_of(n2)
