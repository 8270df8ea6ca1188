"""Joins and leaves in which the cluster is not where one would like it."""

from __future__ import annotations

import asyncio
import concurrent.futures
import time
from collections.abc import Iterator
from typing import cast

import pytest

from k3s_ha_agent.errors import DeadlineExceeded
from k3s_ha_agent.k3s.layout import Layout
from k3s_ha_agent.operations.peers import Peers
from k3s_ha_agent.operations.plan import Run
from k3s_ha_agent.operations.steps import membership
from tests.crash.cluster import ClusterNode, cluster
from tests.crash.datastores import WRITTEN_BY_ITSELF
from tests.crash.quick_node import wait_for
from tests.crash.test_cluster import JOIN, finish, hold_join, join, members, migrate, nothing_is_left_of, stable
from tests.standin.networks import own_network
from tests.unit.preflight.server import tree

QUIET = tuple(prefix.encode() for prefix in WRITTEN_BY_ITSELF)


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


SLOW_SYSTEMCTL = """#!/bin/sh
[ "$1" != stop ] || while [ ! -e {go} ]; do echo >{asked}; sleep 0.05; done
exec {real} "$@"
"""


def test_becomes_a_member_while_the_rescue_stops_it(two: list[ClusterNode]) -> None:
    """No etcd was there when the rescue looked, and k3s was on its way: it is looked at again once k3s has stopped."""
    n1, n2 = two
    before = migrate(n1)
    operation = hold_join(n2, n1, "before do join-cluster")
    n2.stop_agent(9)
    slow, go, asked = n2.root / "slow", n2.root / "go", n2.root / "asked"
    slow.mkdir()
    (slow / "systemctl").write_text(SLOW_SYSTEMCTL.format(go=go, asked=asked, real=n2.root / "bin/systemctl"))
    (slow / "systemctl").chmod(0o755)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        rescue = pool.submit(n2.run_rescue, path=f"{slow}:{n2.root}/bin:/usr/bin:/bin")
        try:
            wait_for(asked.exists, "the rescue has looked and stops k3s")
            n2.systemctl("start", "k3s.service")
            wait_for(lambda: members(n1) == {"n1": True, "n2": True}, "n2 votes")
        finally:
            go.touch()
        done = rescue.result()
    assert done.returncode == 0, done.stdout
    n2.start_agent()
    assert n2.finish(operation)["outcome"] == "rolled_back"
    assert members(n1) == {"n1": True}
    assert stable(n1.etcd_keys()) == stable(before), "n1 answers alone"
    nothing_is_left_of(n2)


def test_a_member_that_is_not_called_after_its_node(three: list[ClusterNode]) -> None:
    """As in releases of 2021, where the hostname is an FQDN: joined, taken back and left all the same."""
    n1, n2, _ = three
    migrate(n1)
    n2.standin(host="host", faults={"no_role": True}, speed=n2.speed, version=n2.version)
    joined = join(n2, n1, timeout="25s")
    assert joined["outcome"] == "rolled_back", joined
    assert members(n1) == {"n1": True}
    nothing_is_left_of(n2)
    n2.standin(host="host", speed=n2.speed, version=n2.version)
    assert join(n2, n1)["outcome"] == "succeeded"
    assert members(n1) == {"n1": True, "host": True}
    assert finish(n2, "rollback", JOIN)["outcome"] == "succeeded"
    assert members(n1) == {"n1": True}


def test_the_cluster_goes_down_while_a_join_waits(slow_tick: list[ClusterNode]) -> None:
    """Nothing was changed yet, so there is nothing to fail on the way back; the lock is not even ours."""
    n1, n2 = slow_tick
    migrate(n1)
    lock = {"holder": "n9 of-yesterday", "until": f"{time.time() + 3600:.0f}"}
    with n1.network():
        n1.create_configmap("k3s-ha-agent-membership", "kube-system", lock)
    n2.start_agent()
    body = {"server": n1.url, "token_file": str(n1.token_for(n2)), "on_conflict": "wait"}
    operation = n2.begin("join", body)
    wait_for(lambda: "Waiting: n9 of-yesterday" in (n2.root / "agent.log").read_text(), "n2 waits")
    n1.stop_agent()
    n1.systemctl("stop", "k3s.service")
    assert n2.finish(operation)["outcome"] == "rolled_back"
    nothing_is_left_of(n2)


def test_a_refused_request_changes_nothing(slow_tick: list[ClusterNode]) -> None:
    """Asked as anybody asks: 412, exit code 5's problem, the check named, no record, no token kept, no file touched."""
    n1, n2 = slow_tick
    migrate(n1)
    n2.start_agent()
    token = (n1.data / "server/token").read_text().strip()
    ca, _, password = token.partition("::server:")
    good = {"server": n1.url, "token": f"{token}\r\n"}
    status, answer = n2.api("POST", "/v1/join", {**good, "dry_run": True})
    assert (status, answer["refused_by"]) == (200, []), "a line end of another system is no part of the token"

    def refused_by(check: str, **changes: object) -> None:
        before = both_sides(n1, n2)
        status, answer = n2.api("POST", "/v1/join", {**good, **changes})
        assert (status, answer["code"]) == (412, "preflight-failed"), answer
        assert check in {c["name"] for c in answer["checks"] if c["status"] == "refused"}, answer["detail"]
        assert both_sides(n1, n2) == before

    refused_by("token-accepted", token=f"{ca}::server:wrong")
    refused_by("cluster-ca", token=f"K10{'0' * 64}::server:{password}")
    refused_by("cluster-ca", token=password)
    refused_by("target-answers", server="https://10.99.0.99:6443")
    config = n2.root / "etc/config.yaml"
    kept = config.read_text()
    config.write_text(f"{kept}cluster-cidr: 10.99.0.0/16\n")
    refused_by("critical-flags")
    config.write_text(kept)
    (n2.data / "server/db").mkdir(parents=True)
    (n2.data / "server/db/state.db").write_text("")
    refused_by("empty-data-dir")
    (n2.data / "server/db/state.db").unlink()
    n2.systemd.write_unit("k3s-agent.service", "[Service]\nExecStart=/bin/true\n")
    refused_by("agent-state")
    assert password not in (n2.root / "agent.log").read_text() + (n2.state / "audit.jsonl").read_text()


def both_sides(n1: ClusterNode, n2: ClusterNode) -> tuple[object, ...]:
    """Members and keys of the cluster; every file that is k3s's, systemd's or the agent's on the server that asks."""
    ours = (n2.root / "etc", n2.data, n2.systemd.units, n2.state)
    files = {k: v for each in ours for k, v in tree(each).items() if not k.endswith(("audit.jsonl", "lock", "/."))}
    keys = {k: v for k, v in n1.etcd_keys().items() if not k.startswith(QUIET)}
    return members(n1), keys, files, n2.records(), n2.k3s_state()


def test_asked_while_the_first_has_a_vote_and_is_not_ready_yet(three: list[ClusterNode]) -> None:
    """Neither a learner nor a ready Node: still 409, or waited for, and no failed check."""
    n1, n2, n3 = three
    migrate(n1)
    n2.change_faults({"no_node": True})
    n2.start_agent()
    n3.start_agent()
    body = {"timeout": "120s", "stability": "6s", "server": n1.url, "token_file": str(n1.token_for(n2))}
    first = n2.begin("join", body)
    wait_for(lambda: "after do join-cluster" in n2.trace_text(), "n2 has a vote")
    second = {"timeout": "120s", "server": n1.url, "token_file": str(n1.token_for(n3))}
    status, refused = n3.api("POST", "/v1/join", second)
    assert (status, refused["code"]) == (409, "conflict"), refused
    assert "n2" in refused["detail"]
    assert n3.records() == [] and not list(n3.state.glob("operations/*/token"))
    waiting = n3.begin("join", {**second, "on_conflict": "wait"})
    assert n2.finish(first)["outcome"] == "succeeded"
    assert n3.finish(waiting)["outcome"] == "succeeded"
    assert members(n1) == {"n1": True, "n2": True, "n3": True}


def test_leaving_after_the_server_it_joined_through_has_left(three: list[ClusterNode]) -> None:
    n1, n2, n3 = three
    migrate(n1)
    assert join(n2, n1)["outcome"] == "succeeded"
    assert join(n3, n2)["outcome"] == "succeeded"
    assert finish(n2, "rollback", JOIN)["outcome"] == "succeeded"
    left = finish(n3, "rollback", JOIN)
    assert left["outcome"] == "succeeded", left
    assert members(n1) == {"n1": True}
    nothing_is_left_of(n3)


@pytest.mark.parametrize("undo_timeout", ["60s", "2s"])
def test_the_rest_goes_down_once_the_member_is_removed(undo_timeout: str) -> None:
    """The Node and its password Secret are deleted when it is back: in time, or by the next start of the agent, though
    this server's certificates lie in the quarantine by then."""
    with own_network(), cluster(2, settings={"undo_timeout": undo_timeout}) as (n1, n2):
        migrate(n1)
        assert join(n2, n1)["outcome"] == "succeeded"
        operation = n2.begin("rollback", JOIN)
        wait_for(lambda: "after do remove-member" in n2.trace_text(), "the member is removed")
        n1.kill_k3s()
        n1.systemctl("stop", "k3s.service")
        if undo_timeout == "2s":
            assert "forget-node" in n2.finish(operation)["reason"]
            nothing_is_left_of(n2)
            n2.stop_agent()
        else:
            wait_for(lambda: "is not deleted yet" in (n2.root / "agent.log").read_text(), "n1 is down", 60)
            time.sleep(12)  # longer than five tries in a row take
        n1.systemctl("start", "k3s.service")
        wait_for(lambda: n1.k3s_state() == "active", "n1 is back")
        if not n2.agent_lives():
            n2.start_agent()
        wait_for(lambda: all(s["status"] == "done" for s in n2.records()[-1]["steps"]), "all is tidied up", 60)
        nothing_is_left_of(n2)
        assert join(n2, n1)["outcome"] == "succeeded"


class Said:
    """As much of a run as a check needs that records nothing."""

    def __init__(self) -> None:
        self.sentences: list[str] = []

    def decide(self, sentence: str) -> None:
        self.sentences.append(sentence)


def test_a_member_that_is_still_listed_has_not_left(two: list[ClusterNode], monkeypatch: pytest.MonkeyPatch) -> None:
    """Another server behind the same address may know less: waited for, then a failure. Silence is none."""
    n1, n2 = two
    migrate(n1)
    assert join(n2, n1)["outcome"] == "succeeded"
    monkeypatch.setattr(membership, "CONFIRM_LIMIT", 2.0)
    nowhere = n2.root / "nowhere"
    peers = Peers(Layout(n2.data), n1.url, n1.token_for(n2), n2.root / "run", "n2", Layout(nowhere))
    run = Said()

    def verify() -> None:
        with n2.network():
            asyncio.run(membership.RemoveMember(peers, n2.address).verify(cast(Run, run)))

    with pytest.raises(DeadlineExceeded, match="without this server"):
        verify()
    n1.systemctl("stop", "k3s.service")
    verify()
    assert run.sentences
