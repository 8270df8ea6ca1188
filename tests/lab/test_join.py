"""From one server to three by curl alone, as the README shows, and back; on nodes with a real systemd."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.lab.datastore import VOLATILE, assert_same
from tests.lab.node import K3S, Node

CALM = {"heartbeat_ms": 50, "election_ms": 500, "promote_tick": 1.0}
"""etcd's timing with which a cluster is stable on a busy machine (tests/standin/README.md)."""
DROP_IN = "/etc/rancher/k3s/config.yaml.d/zz-k3s-ha-agent.yaml"
TOKEN = "/var/lib/rancher/k3s/server/token"
CHANGING = (*VOLATILE, "/registry/minions/", "/registry/configmaps/kube-system/", "/registry/secrets/kube-system/")


@pytest.fixture
def trio(new_server: Callable[..., Node], new_node: Callable[[str], Node]) -> list[Node]:
    """n1 on SQLite; n2 and n3 with k3s installed, disabled, and nothing in their data dir."""
    nodes = [new_server("n1", speed=CALM)]
    for name in ("n2", "n3"):
        node = new_node(name)
        node.agent_settings()
        node.standin(version="v1.22.2+k3s1", speed=CALM)
        node.chroot(["systemctl", "disable", "--quiet", K3S])
        node.boot()
        node.wait_for_agent()
        nodes.append(node)
    return nodes


def ask(node: Node, kind: str, body: dict[str, object]) -> dict[str, Any]:
    """POST and wait, by curl."""
    answer = node.api("POST", f"/v1/{kind}", body)
    assert answer.status == 202, answer.text
    ended = node.api("GET", f"{answer.headers['location']}/wait?timeout=5m", timeout=310)
    assert ended.status == 200, ended.text
    return dict(ended.json)


def join(node: Node, target: Node) -> dict[str, Any]:
    node.write("/etc/rancher/cluster-token", target.read(TOKEN), mode=0o600)
    return ask(node, "join", {"server": f"https://{target.address}:6443", "token_file": "/etc/rancher/cluster-token"})


def members(node: Node) -> dict[str, str]:
    """Member names without their suffix, and ``voter`` or ``learner``, as GET /v1/members says."""
    view = node.api("GET", "/v1/members").json
    return {m["name"].rpartition("-")[0]: "voter" if m["voter"] else "learner" for m in view["members"]}


def test_one_to_three_and_back(trio: list[Node]) -> None:
    n1, n2, n3 = trio
    before = n1.kine_live()
    assert ask(n1, "migrate", {})["outcome"] == "succeeded"
    for node in (n2, n3):
        joined = join(node, n1)
        assert joined["outcome"] == "succeeded", joined
        assert "etcd" in n1.roles(node.name)
    assert members(n2) == {"n1": "voter", "n2": "voter", "n3": "voter"}
    assert_same(before, n3.etcd_live(), ignore=CHANGING)
    n1.wait_for(lambda: "server:" in n1.read(DROP_IN), timeout=60, what="n1 names a peer instead of cluster-init")

    n2.kill()
    n1.wait_for(lambda: n1.kubectl("/readyz", timeout=5.0).status == 200, timeout=60, what="two of three still answer")
    n1.create_config_map("written-by-two-of-three")
    n2.boot()
    n2.wait_for_k3s()
    n2.wait_for_agent()
    n3.wait_for(
        lambda: "/registry/configmaps/default/written-by-two-of-three" in n2.etcd_live(), what="n2 has caught up"
    )

    for node in (n3, n2):
        assert ask(node, "rollback", {})["outcome"] == "succeeded"
        assert node.name not in members(n1)
        assert n1.kubectl(f"/api/v1/nodes/{node.name}").status == 404
        assert not node.exists("/var/lib/rancher/k3s/server") and not node.exists(DROP_IN)
        assert node.show(K3S, "UnitFileState") == {"UnitFileState": "disabled"} and not node.active(K3S)
    n1.wait_for(lambda: "cluster-init" in n1.read(DROP_IN), timeout=60, what="n1 is alone again")
    assert ask(n1, "rollback", {"writes": "discard", "confirm_lost_writes": True})["outcome"] == "succeeded"
    assert_same(before, n1.kine_live(), ignore=CHANGING)


def test_rebooted_in_the_join(trio: list[Node]) -> None:
    """The joining node dies whole while it is a learner or voter: booted again, it leaves no member behind."""
    n1, n2, _ = trio
    assert ask(n1, "migrate", {})["outcome"] == "succeeded"
    n2.write("/etc/rancher/cluster-token", n1.read(TOKEN), mode=0o600)
    body = {"server": f"https://{n1.address}:6443", "token_file": "/etc/rancher/cluster-token", "stability": "1m"}
    answer = n2.api("POST", "/v1/join", body)
    assert answer.status == 202, answer.text
    n2.wait_for(lambda: members(n1).get("n2") is not None, timeout=60, what="n2 is a member")
    n2.reboot_hard()
    n2.wait_for_agent()
    ended = n2.api("GET", f"{answer.headers['location']}/wait?timeout=5m", timeout=310)
    assert ended.json["outcome"] == "rolled_back", ended.text
    n1.wait_for(lambda: members(n1) == {"n1": "voter"}, timeout=120, what="no member of n2 is left")
    assert not n2.exists("/var/lib/rancher/k3s/server")
    assert join(n2, n1)["outcome"] == "succeeded"


def test_rebooted_while_leaving(trio: list[Node]) -> None:
    """Cut off in its leave, a server goes on once its member is being removed, else it is a member as before."""
    n1, n2, _ = trio
    assert ask(n1, "migrate", {})["outcome"] == "succeeded"
    assert join(n2, n1)["outcome"] == "succeeded"
    answer = n2.api("POST", "/v1/rollback", {})
    assert answer.status == 202, answer.text
    n2.reboot_hard()
    n2.wait_for_agent()
    ended = n2.api("GET", f"{answer.headers['location']}/wait?timeout=5m", timeout=310)
    assert ended.status == 200, ended.text
    if ended.json["outcome"] == "succeeded":
        assert members(n1) == {"n1": "voter"}
        assert not n2.exists("/var/lib/rancher/k3s/server")
    else:
        assert ended.json["outcome"] == "rolled_back", ended.text
        n2.wait_for_k3s()
        n1.wait_for(lambda: members(n1) == {"n1": "voter", "n2": "voter"}, timeout=120, what="n2 is a member as before")
        assert ask(n2, "rollback", {})["outcome"] == "succeeded"
    n1.wait_for(lambda: members(n1) == {"n1": "voter"}, timeout=120, what="n2 has left")
