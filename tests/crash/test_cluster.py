"""From one server to three and back to one, and joins that die on the way, on real etcd members."""

from __future__ import annotations

from typing import Any

import pytest

from tests.crash.cluster import ClusterNode
from tests.crash.datastores import WRITTEN_BY_ITSELF
from tests.crash.quick_node import wait_for

JOIN = {"timeout": "60s"}


def finish(node: ClusterNode, kind: str, body: dict[str, Any]) -> dict[str, Any]:
    status, answer = node.api("POST", f"/v1/{kind}", body)
    assert status == 202, answer
    status, answer = node.api("GET", f"/v1/operations/{answer['id']}/wait?timeout=180s", timeout=200)
    assert status == 200, answer
    return dict(answer)


def migrate(node: ClusterNode) -> dict[bytes, bytes]:
    before = node.sqlite_keys()
    node.start_agent()
    assert finish(node, "migrate", {"timeout": "60s"})["outcome"] == "succeeded"
    return before


def join(node: ClusterNode, target: ClusterNode, **more: Any) -> dict[str, Any]:
    if not node.agent_lives():
        node.start_agent()
    body = {**JOIN, "server": target.url, "token_file": str(target.token_for(node)), **more}
    return finish(node, "join", body)


def hold_join(node: ClusterNode, target: ClusterNode, point: str) -> str:
    """Begin a join and hold its agent at a point; the operation's id."""
    node.start_agent(f"pause {point}")
    body = {"timeout": "120s", "server": target.url, "token_file": str(target.token_for(node))}
    operation = node.begin("join", body)
    assert operation is not None

    def held() -> bool:
        record = node.record(operation)
        assert record["phase"] == "doing", (record["outcome"], record["reason"])
        return f"{point} PAUSED" in node.trace_text()

    wait_for(held, f"{node.name} is held {point}")
    return operation


def members(node: ClusterNode) -> dict[str, bool]:
    """Name of each member without its suffix, and whether it is a voter; by etcdctl on the node."""
    tls = node.data / "server/tls/etcd"
    options = [f"--cacert={tls}/server-ca.crt", f"--cert={tls}/client.crt", f"--key={tls}/client.key"]
    with node.network():
        answer = node.etcdctl("member", "list", "-w", "json", options=options)
    return {
        m.get("name", "unstarted").rpartition("-")[0] or "unstarted": not m.get("isLearner") for m in answer["members"]
    }


def stable(keys: dict[bytes, bytes]) -> dict[bytes, bytes]:
    ours = (*WRITTEN_BY_ITSELF, "/registry/configmaps/kube-system/", "/registry/secrets/kube-system/")
    return {k: v for k, v in keys.items() if not k.startswith(tuple(p.encode() for p in ours))}


def test_from_one_to_three_and_back(three: list[ClusterNode]) -> None:
    n1, n2, n3 = three
    before = migrate(n1)
    assert b"cluster-init" in n1.drop_in.read_bytes()

    for node in (n2, n3):
        joined = join(node, n1)
        assert joined["outcome"] == "succeeded", joined
        assert {e["name"] for e in joined["evidence"] if e["ok"]} >= {
            "voter-seen-from-peer", "same-members", "same-data", "api-ready", "etcd-role", "stable"
        }  # fmt: skip
    assert members(n1) == members(n3) == {"n1": True, "n2": True, "n3": True}
    assert stable(n3.etcd_keys()) == stable(before)
    wait_for(lambda: b"server:" in n1.drop_in.read_bytes(), "n1 names a peer instead of cluster-init")

    status, refused = n1.api("POST", "/v1/rollback", {"writes": "discard", "confirm_lost_writes": True})
    assert (status, refused["code"]) == (409, "conflict"), "a server with others beside it cannot go back to SQLite"
    assert {name.rpartition("-")[0] for name in refused["members"]} == {"n1", "n2", "n3"}
    status, refused = n2.api("POST", "/v1/rollback", {"writes": "discard"})
    assert (status, refused["code"]) == (422, "invalid-body"), "a server that joined has no SQLite"

    for node in (n3, n2):
        left = finish(node, "rollback", JOIN)
        assert left["outcome"] == "succeeded", left
        assert node.name not in members(n1)
        nothing_is_left_of(node)
    wait_for(lambda: b"cluster-init" in n1.drop_in.read_bytes(), "n1 is alone and says cluster-init again")

    body = {"writes": "discard", "confirm_lost_writes": True, "timeout": "60s"}
    assert finish(n1, "rollback", body)["outcome"] == "succeeded"
    assert stable(n1.sqlite_keys()) == stable(before)


def nothing_is_left_of(node: ClusterNode) -> None:
    """A server that is not in the cluster: nothing of the join is here."""
    assert not (node.data / "server").exists()
    assert not node.drop_in.exists()
    assert not (node.root / "etc/k3s-ha-agent-token").exists()
    assert not (node.systemd.units / "k3s.service.d/zz-k3s-ha-agent-gate.conf").exists()
    assert not list(node.state.glob("operations/*/token"))
    assert node.systemctl("show", "--property=ActiveState", "k3s.service") in ("inactive", "failed")


@pytest.mark.parametrize("point", ["before-join", "after-member-add", "before-promotion", "before-ready"])
def test_k3s_dies_in_the_join(two: list[ClusterNode], point: str) -> None:
    """Wherever k3s dies, the cluster is left without a member of ours, and goes on.

    Dead as the second voter of two it takes the quorum with it; started once more, it leaves in order.
    """
    n1, n2 = two
    migrate(n1)
    n2.change_faults({"die_at": point, "once": point == "before-ready"})
    joined = join(n2, n1)
    assert joined["outcome"] == "rolled_back", (joined["reason"], n2.diagnosis()[-6000:])
    wait_for(lambda: members(n1) == {"n1": True}, "no member of n2 is left")
    nothing_is_left_of(n2)
    n2.change_faults({})
    assert join(n2, n1)["outcome"] == "succeeded"


@pytest.mark.parametrize("step", ["announce", "configure-join", "join-cluster", "prove", "hold-still"])
def test_agent_dies_in_the_join(two: list[ClusterNode], step: str) -> None:
    """Killed and started again, it goes on or leaves no trace."""
    n1, n2 = two
    migrate(n1)
    n2.start_agent()
    body = {**JOIN, "server": n1.url, "token_file": str(n1.token_for(n2)), "stability": "1s"}
    status, answer = n2.api("POST", "/v1/join", body)
    assert status == 202, answer
    wait_for(lambda: f"before do {step}" in n2.trace_text(), f"the agent is in {step}")
    n2.stop_agent(9)
    n2.start_agent()
    status, ended = n2.api("GET", f"/v1/operations/{answer['id']}/wait?timeout=180s", timeout=200)
    assert status == 200 and ended["outcome"] in ("succeeded", "rolled_back"), ended
    if ended["outcome"] == "succeeded":
        assert members(n1) == {"n1": True, "n2": True}
    else:
        wait_for(lambda: members(n1) == {"n1": True}, "no member of n2 is left")
        nothing_is_left_of(n2)


def test_aborted_as_a_voter(two: list[ClusterNode]) -> None:
    """The second voter of two is removed while it still runs: stopped first, it would take the quorum with it."""
    n1, n2 = two
    before = migrate(n1)
    n2.start_agent()
    body = {"timeout": "120s", "stability": "60s", "server": n1.url, "token_file": str(n1.token_for(n2))}
    status, answer = n2.api("POST", "/v1/join", body)
    assert status == 202, answer
    wait_for(lambda: "before do hold-still" in n2.trace_text(), "n2 is a voter")
    assert n2.api("POST", f"/v1/operations/{answer['id']}/abort")[0] == 202
    status, ended = n2.api("GET", f"/v1/operations/{answer['id']}/wait?timeout=180s", timeout=200)
    assert ended["outcome"] == "rolled_back", ended
    assert members(n1) == {"n1": True}
    assert stable(n1.etcd_keys()) == stable(before), "n1 answers alone"
    nothing_is_left_of(n2)


def test_rescue_takes_a_join_back(two: list[ClusterNode]) -> None:
    """The agent is gone: the rescue makes the server as it was, and the agent, once back, removes the member."""
    n1, n2 = two
    migrate(n1)
    n2.start_agent()
    body = {"timeout": "120s", "stability": "60s", "server": n1.url, "token_file": str(n1.token_for(n2))}
    status, answer = n2.api("POST", "/v1/join", body)
    assert status == 202, answer
    wait_for(lambda: "before do join-cluster" in n2.trace_text(), "n2 begins to join")
    n2.stop_agent(9)
    done = n2.run_rescue()
    assert done.returncode == 0, done.stdout
    assert not (n2.data / "server").exists() and not n2.drop_in.exists()
    n2.start_agent()
    status, ended = n2.api("GET", f"/v1/operations/{answer['id']}/wait?timeout=180s", timeout=200)
    assert ended["outcome"] == "rolled_back", ended
    wait_for(lambda: members(n1) == {"n1": True}, "no member of n2 is left")
    nothing_is_left_of(n2)


def test_one_join_at_a_time(three: list[ClusterNode]) -> None:
    """The second is refused with 409 while the first one joins, or waits for it, as asked."""
    n1, n2, n3 = three
    migrate(n1)
    n2.start_agent()
    n3.start_agent()
    first = {"timeout": "120s", "stability": "8s", "server": n1.url, "token_file": str(n1.token_for(n2))}
    second = {"timeout": "120s", "server": n1.url, "token_file": str(n1.token_for(n3))}
    status, begun = n2.api("POST", "/v1/join", first)
    assert status == 202, begun
    wait_for(lambda: "after do take-lock" in n2.trace_text(), "n2 has the lock")
    status, refused = n3.api("POST", "/v1/join", second)
    assert (status, refused["code"]) == (409, "conflict"), refused
    assert n3.records() == []
    assert finish(n3, "join", {**second, "on_conflict": "wait"})["outcome"] == "succeeded"
    status, ended = n2.api("GET", f"/v1/operations/{begun['id']}/wait?timeout=60s", timeout=90)
    assert ended["outcome"] == "succeeded"
    assert members(n1) == {"n1": True, "n2": True, "n3": True}


def test_leaving_is_refused_where_it_would_cost_the_quorum(three: list[ClusterNode]) -> None:
    """With one of three dead, the other two need each other."""
    n1, n2, n3 = three
    migrate(n1)
    for node in (n2, n3):
        assert join(node, n1)["outcome"] == "succeeded"
    n2.stop_agent()
    n2.systemctl("stop", "k3s.service")
    ended = finish(n3, "rollback", JOIN)
    assert ended["outcome"] == "rolled_back", ended
    assert "does not answer" in ended["reason"]
    assert members(n1) == {"n1": True, "n2": True, "n3": True}
    assert n3.systemctl("show", "--property=ActiveState", "k3s.service") == "active"
