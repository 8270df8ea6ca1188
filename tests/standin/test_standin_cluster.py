"""Stand-ins as one cluster: join, learners, refusals, leaving."""

from __future__ import annotations

import contextlib
import http.client
import threading
from collections.abc import Callable
from typing import Any

import pytest

from tests.standin.harness import K3s, wait_for
from tests.standin.k3s_standin.gateway import Gateway, GatewayError

Make = Callable[[], list[K3s]]
CALM = {"heartbeat_ms": 50, "election_ms": 500, "promote_tick": 0.3}


def first(server: K3s, version: str = "v1.22.2+k3s1", **more: Any) -> None:
    """A one-server cluster on etcd."""
    server.settings(version=version, speed=CALM, **more)
    server.cluster_init()
    server.up()


def joining(server: K3s, to: K3s, version: str = "v1.22.2+k3s1", token: str = "", **more: Any) -> None:
    """Set up, not started."""
    server.settings(version=version, speed=CALM, **more)
    full = (to.server / "token").read_text().strip()
    server.configure(server=f"https://{to.address}:6443", token=token or full)


def joined(servers: Make) -> tuple[K3s, K3s]:
    """n1, and n2 that is a voter of its cluster."""
    n1, n2, _ = servers()
    first(n1)
    joining(n2, n1)
    n2.up()
    wait_for("the etcd role", lambda: "etcd" in n2.roles)
    return n1, n2


def members(server: K3s) -> dict[str, bool]:
    """Node name of each member -> whether it votes; asked of the supervisor."""
    status, answer = server.http("/db/info", user="server", certificate=None)
    assert status == 200, answer
    return {m.get("name", "").rpartition("-")[0]: not m.get("isLearner", False) for m in answer["members"]}


def up_in_the_end(server: K3s) -> None:
    """Start as systemd would, again after each end.

    A server that joined a moment ago is "unhealthy" to etcd for five seconds; old releases give up
    and are restarted, newer ones (1.26.5) wait.
    """

    def attempt() -> bool:
        server.start()
        wait_for("its end or readiness", lambda: "up and running" in server.log or "level=fatal" in server.log)
        if "up and running" in server.log:
            return True
        assert "etcdserver: unhealthy cluster" in fatal(server)
        server.wait_end()
        return False

    wait_for("a start that joins", attempt)


def fatal(server: K3s) -> str:
    return "\n".join(line for line in server.messages.splitlines() if "level=fatal" in line)


@pytest.mark.parametrize("version", ["v1.22.2+k3s1", "v1.34.1+k3s1"])
def test_three_servers(servers: Make, version: str) -> None:
    n1, n2, n3 = servers()
    first(n1, version)
    body = {"metadata": {"name": "before"}, "data": {"a": "1"}}
    assert n1.http("/api/v1/namespaces/default/configmaps", method="POST", body=body)[0] == 201
    for server in (n2, n3):
        joining(server, n1, version)
        up_in_the_end(server)
        wait_for("the etcd role", lambda server=server: "etcd" in server.roles)  # type: ignore[misc]
    assert members(n3) == {"n1": True, "n2": True, "n3": True}
    assert (n3.server / "tls/server-ca.crt").read_text() == (n1.server / "tls/server-ca.crt").read_text()
    assert n3.password == n1.password
    assert n3.http("/api/v1/namespaces/default/configmaps/before")[1]["data"] == {"a": "1"}
    assert n1.http("/api/v1/nodes/n3")[0] == 200
    n1.kill()
    wait_for("the API of the other two", lambda: n2.http("/readyz")[0] == 200)
    assert n3.http("/api/v1/namespaces/default/configmaps/before")[0] == 200
    n1.up()
    assert members(n1) == {"n1": True, "n2": True, "n3": True}
    n2.kill()
    n3.kill()
    with pytest.raises(TimeoutError):  # "Seen" 11: hangs rather than fails
        n1.http("/readyz", timeout=2)


def test_a_wrong_token_is_fatal(servers: Make) -> None:
    n1, n2, _ = servers()
    first(n1)
    joining(n2, n1, token="wrong")
    n2.start()
    assert n2.wait_end() == 1
    assert "/v1-k3s/server-bootstrap: 401 Unauthorized" in fatal(n2)
    full = (n1.server / "token").read_text().strip()
    joining(n2, n1, token="K10" + "0" * 64 + full[67:])
    n2.start()
    assert n2.wait_end() == 1
    assert "token CA hash does not match the Cluster CA certificate hash" in fatal(n2)
    assert members(n1) == {"n1": True}


def test_without_a_token_it_stays_alone(servers: Make) -> None:
    """J10."""
    n1, n2, _ = servers()
    first(n1)
    n2.settings(speed=CALM)
    n2.configure(**{"server": f"https://{n1.address}:6443", "cluster-init": True})
    n2.up()
    assert members(n1) == {"n1": True}
    assert members(n2) == {"n2": True}


def test_a_server_on_sqlite_cannot_be_joined(servers: Make) -> None:
    n1, n2, _ = servers()
    for version, words in (("v1.22.2+k3s1", "401 Unauthorized"), ("v1.34.1+k3s1", "400 Bad Request")):
        n1.settings(version=version)
        n1.up()
        joining(n2, n1, version)
        n2.start()
        assert n2.wait_end() == 1
        assert f"/v1-k3s/server-bootstrap: {words}" in fatal(n2)
        n1.stop()


@pytest.mark.parametrize(
    ("version", "words"),
    [
        ("v1.22.2+k3s1", ""),
        ("v1.22.4+k3s1", "unable to join cluster due to critical configuration value mismatch"),
        ("v1.34.1+k3s1", "critical configuration value mismatch between servers"),
    ],
)
def test_a_differing_critical_flag(servers: Make, version: str, words: str) -> None:
    n1, n2, _ = servers()
    first(n1, version)
    joining(n2, n1, version)
    n2.configure(**{"cluster-cidr": "10.99.0.0/16"})
    if not words:  # "Seen" 10: accepted silently
        n2.up()
        return
    n2.start()
    assert n2.wait_end() == 1
    assert words in fatal(n2)
    assert members(n1) == {"n1": True}
    if version == "v1.34.1+k3s1":
        assert "critical configuration mismatched: cluster-cidr" in n2.messages


@pytest.mark.parametrize(("version", "code"), [("v1.22.2+k3s1", 1), ("v1.34.1+k3s1", 0)])
def test_a_duplicate_node_name(servers: Make, version: str, code: int) -> None:
    n1, n2, _ = servers()
    first(n1, version)
    joining(n2, n1, version)
    n2.configure(**{"node-name": "n1"})
    n2.start()
    assert n2.wait_end() == code  # newer ones leave with 0 (4.7)
    assert "duplicate node name found, please use a unique name for this node" in fatal(n2)
    assert not (n2.db / "etcd/name").exists()
    assert members(n1) == {"n1": True}


def test_a_dead_learner_blocks_the_next_join(servers: Make) -> None:
    n1, n2, n3 = servers()
    first(n1)
    joining(n2, n1, faults={"die_at": "after-member-add"})
    n2.start()
    assert n2.wait_end() == -9
    assert members(n1) == {"n1": True, "": False}
    joining(n3, n1)
    n3.start()
    assert n3.wait_end() == 1
    assert "too many learner members in cluster" in fatal(n3)
    joining(n2, n1)
    n2.up()  # the same server may try again: it is known by its address
    assert members(n1) == {"n1": True, "n2": True}


def test_newer_releases_wait_for_the_other_learner(servers: Make) -> None:
    n1, n2, n3 = servers()
    first(n1, "v1.34.1+k3s1")
    joining(n2, n1, "v1.34.1+k3s1", faults={"die_at": "after-member-add"})
    n2.start()
    assert n2.wait_end() == -9
    joining(n3, n1, "v1.34.1+k3s1")
    n3.start()
    n3.wait_line("Waiting to join etcd cluster: ")
    joining(n2, n1, "v1.34.1+k3s1")
    n2.up()
    n3.wait_line("k3s is up and running")
    assert members(n1) == {"n1": True, "n2": True, "n3": True}


def test_a_stalled_learner_is_removed(servers: Make) -> None:
    n1, n2, _ = servers()
    n1.settings(speed={**CALM, "learner_stalled": 1.0})
    n1.cluster_init()
    n1.up()
    joining(n2, n1, faults={"die_at": "after-member-add"})
    n2.start()
    assert n2.wait_end() == -9
    wait_for("its removal", lambda: members(n1) == {"n1": True})


def test_a_learner_that_is_never_promoted(servers: Make) -> None:
    n1, n2, _ = servers()
    first(n1, faults={"never_promote": True})
    joining(n2, n1)
    n2.start()
    n2.wait_line("has not yet been promoted from learner to voting member")
    assert members(n1) == {"n1": True, "n2": False}
    assert "up and running" not in n2.log
    assert n2.stop() == 0


def test_leaving_by_annotation(servers: Make) -> None:
    n1, n2 = joined(servers)
    member = n1.node("n2")["metadata"]["annotations"]["etcd.k3s.cattle.io/node-name"]
    patch = {"metadata": {"annotations": {"etcd.k3s.cattle.io/remove": "true"}}}
    merge = "application/merge-patch+json"
    n2.stop()  # J: stop k3s on that node first
    n2.start()
    n2.wait_line("up and running")
    assert n1.http("/api/v1/nodes/n2", method="PATCH", body=patch, content_type=merge)[0] == 200
    removed = "etcd.k3s.cattle.io/removed-node-name"
    wait_for("the removal", lambda: n1.node("n2")["metadata"]["annotations"].get(removed) == member)
    assert members(n1) == {"n1": True}
    assert n2.wait_end() == 1
    assert (n2.db / "etcd/tombstone").exists()
    assert n1.http("/api/v1/nodes/n1", method="PATCH", body=patch, content_type=merge)[0] == 200
    assert n1.http("/api/v1/nodes/n2", method="DELETE")[0] == 200
    wait_for("the end of the Node", lambda: n1.http("/api/v1/nodes/n2")[0] == 404)
    wait_for("the refusal", lambda: "etcd.k3s.cattle.io/remove" not in n1.node()["metadata"]["annotations"])
    assert members(n1) == {"n1": True}


def test_leaving_while_everybody_asks_etcd_for_its_status(servers: Make) -> None:
    """etcd answers some of them with a panic (k3s-facts 4.9); the stand-in knows what it meant."""
    n1, n2 = joined(servers)
    gateway = Gateway(n2.server / "tls", n2.address, 2379)
    answers: list[dict[str, Any]] = []

    def ask() -> None:
        with contextlib.suppress(OSError, http.client.HTTPException, GatewayError, ValueError):  # until it is gone
            while True:
                answers.append(gateway.status())

    asking = [threading.Thread(target=ask) for _ in range(8)]
    for thread in asking:
        thread.start()
    wait_for("the first answers", lambda: len(answers) > 50)
    assert n1.http("/api/v1/nodes/n2", method="DELETE")[0] == 200
    assert n2.wait_end() == 1
    for thread in asking:
        thread.join()
    assert "this node has been removed from the cluster" in fatal(n2)
    assert (n2.db / "etcd/tombstone").exists()


def test_deleting_the_node_takes_its_member_out(servers: Make) -> None:
    n1, n2 = joined(servers)
    status, thing = n1.http("/api/v1/nodes/n2", method="DELETE")
    assert status == 200 and thing["metadata"]["deletionTimestamp"]
    wait_for("the end of the Node", lambda: n1.http("/api/v1/nodes/n2")[0] == 404)
    assert members(n1) == {"n1": True}
    assert n2.wait_end() == 1
    n2.up()  # tombstone: the old data goes aside, and it joins anew
    assert members(n1) == {"n1": True, "n2": True}
    assert [p for p in n2.db.iterdir() if p.name.startswith("etcd-backup-")]


def test_the_node_password_must_be_the_same(servers: Make) -> None:
    n1, n2, _ = servers()
    file = n2.directory / "node-password"
    first(n1)
    joining(n2, n1, node_password_file=str(file))
    n2.up()
    secret = "/api/v1/namespaces/kube-system/secrets/n2.node-password.k3s"
    assert n1.http(secret)[0] == 200
    n2.stop()
    n2.up()
    n2.stop()
    file.write_text("another\n")
    n2.start()
    assert n2.wait_end() == 1
    assert "Node password rejected" in fatal(n2)
