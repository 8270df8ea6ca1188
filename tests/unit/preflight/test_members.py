"""The cluster's members, in data and against stand-in clusters that lose one after the other."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from k3s_ha_agent.host.units import Units
from k3s_ha_agent.k3s.etcd import EtcdStatus
from k3s_ha_agent.model import ClusterView, availability
from k3s_ha_agent.preflight.members import cluster_view, view
from k3s_ha_agent.preflight.results import Missing
from k3s_ha_agent.settings import Settings
from tests.standin.harness import K3s, wait_for
from tests.standin.networks import machines, own_network
from tests.standin.test_standin_cluster import first, joining, up_in_the_end
from tests.unit.preflight.joining import member, node

STATUS = EtcdStatus("3.5.0", 1, 1, leader=11, member_id=12, raft_term=2, revision=3, is_learner=False)
THREE = [member("n1-00000001", 11), member("n2-00000002", 12), member("n3-00000003", 13)]
NODES = [node("n1", 11), node("n2", 12), node("n3", 13)]
ALL = {11: True, 12: True, 13: True}


@pytest.mark.parametrize(
    ("voters", "words"),
    [
        (1, "1 server: its failure stops the cluster; with two more it would survive one."),
        (2, "2 servers: one failure stops the cluster, add a third."),
        (3, "3 servers: one may fail."),
        (4, "4 servers: one may fail, no more than with 3; add another."),
        (5, "5 servers: 2 may fail."),
    ],
)
def test_quorum_in_words(voters: int, words: str) -> None:
    assert availability(voters) == words


def test_all_is_well() -> None:
    shown = view(THREE, STATUS, [], NODES, ALL)
    assert shown.sentence == "3 servers: one may fail." and shown.alarms == ()
    assert [(m.node, m.leader, m.voter, m.healthy) for m in shown.members] == [
        ("n1", True, True, True),
        ("n2", False, True, True),
        ("n3", False, True, True),
    ]
    assert shown.members[0].id == "b" and shown.members[0].address == "10.99.0.11"


def test_one_and_then_two_are_silent() -> None:
    shown = view(THREE, STATUS, [], NODES, {**ALL, 13: False})
    assert shown.sentence == "3 servers, n3 not answering: no further one may fail."
    assert shown.quorum is not None and (shown.quorum.up, shown.quorum.needed, shown.quorum.tolerates) == (2, 2, 1)
    assert not shown.members[2].healthy
    shown = view(THREE, STATUS, [], NODES, {11: True})
    assert shown.sentence == "The quorum is lost: 1 of 3 answer, 2 are needed."


def test_a_learner_an_alarm_and_what_is_not_known() -> None:
    learner = member("", 13, learner=True)
    shown = view([*THREE[:2], learner], STATUS, ["NOSPACE", "NOSPACE"], NODES[:2], ALL)
    assert shown.sentence == (
        "2 servers: one failure stops the cluster, add a third. Alarm: NOSPACE. "
        "10.99.0.13 is a learner and does not vote yet."
    )
    assert shown.quorum is not None and shown.quorum.voters == 2
    silent = Missing("No answer.")
    shown = view(THREE, silent, silent, silent, ALL)
    assert {m.leader for m in shown.members} == {None} == {m.healthy for m in shown.members}
    assert shown.alarms is None


def test_a_member_that_is_not_called_after_its_node() -> None:
    """As in releases of 2021 with an FQDN: the Node's annotation says whose member it is."""
    annotations = {"etcd.k3s.cattle.io/node-name": "host-00000002"}
    theirs = dataclasses.replace(NODES[1], name="host.example.org", annotations=annotations)
    ours = member("host-00000002", 12)
    (shown,) = view([ours], STATUS, [], [NODES[0], theirs], ALL).members
    assert (shown.node, shown.healthy) == ("host.example.org", True)
    another = dataclasses.replace(NODES[1], name="host", annotations={"etcd.k3s.cattle.io/node-name": "host-00000009"})
    (shown,) = view([ours], STATUS, [], [another], ALL).members
    assert (shown.node, shown.healthy) == ("host", None), "a Node of that name says that it is another member's"


def test_a_node_that_says_it_does_not_vote_is_not_healthy() -> None:
    doubtful = dataclasses.replace(NODES[1], conditions={"Ready": "True", "EtcdIsVoter": "False"})
    shown = view(THREE, STATUS, [], [NODES[0], doubtful, dataclasses.replace(NODES[2], ready=False)], ALL)
    assert [m.healthy for m in shown.members] == [True, False, False]


def look(server: K3s) -> ClusterView:
    settings = Settings(data_dir=server.data_dir, k3s_config=server.config)

    async def ask() -> ClusterView:
        async with Units("unix:path=/nowhere/bus") as nobody:
            return await cluster_view(settings, nobody)

    return asyncio.run(ask())


def well(shown: ClusterView) -> ClusterView | None:
    return shown if len(shown.members) == 2 and all(member.healthy for member in shown.members) else None


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[list[K3s]]:
    """n1 in the test's own network, which the agent there would be in, too; n2 beside it on the bridge."""
    with own_network(), machines("10.99.0.12") as (enter,):
        made = [K3s(tmp_path / "n1", "n1", "10.99.0.254"), K3s(tmp_path / "n2", "n2", "10.99.0.12", enter)]
        try:
            yield made
        finally:
            for server in made:
                server.clean()


@pytest.mark.parametrize("version", ["v1.22.2+k3s1", "v1.34.1+k3s1"])
def test_a_cluster_grows_and_loses_one(servers: list[K3s], version: str) -> None:
    n1, n2 = servers
    n1.settings(version=version)
    assert "stands alone" not in look(n1).sentence, "there is nothing yet"
    first(n1, version)
    wait_for("the etcd role", lambda: "etcd" in n1.roles)
    alone = look(n1)
    assert alone.sentence.startswith("1 server: its failure stops the cluster"), alone
    assert [(m.node, m.leader, m.answers, m.healthy) for m in alone.members] == [("n1", True, True, True)]
    joining(n2, n1, version)
    up_in_the_end(n2)
    two = wait_for("both healthy", lambda: well(look(n1)))
    assert two.sentence == "2 servers: one failure stops the cluster, add a third." and two.alarms == ()
    n2.kill()
    lost = look(n1)
    assert "quorum is lost" in lost.sentence, lost


def test_on_sqlite_and_with_k3s_stopped(servers: list[K3s]) -> None:
    n1, _ = servers
    n1.up()
    shown = look(n1)
    assert shown.members == () and shown.quorum is None
    assert shown.sentence.startswith("This server runs on SQLite and stands alone")
    n1.stop()
    n1.cluster_init()
    n1.up()
    n1.stop()
    shown = look(n1)
    assert shown.members == () and "k3s does not run" in shown.sentence
