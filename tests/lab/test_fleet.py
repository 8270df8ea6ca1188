"""``k3s-ha-fleet`` for real: two clusters of five servers, from a machine that has nothing but the .deb, over TLS.

The canary has three servers, of which the last loses its power in the middle of its join; the wave after it has two.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.lab import remote
from tests.lab.datastore import Keys, assert_same
from tests.lab.documents import install
from tests.lab.node import K3S, Node
from tests.lab.scenarios import records
from tests.lab.test_join import CALM, CHANGING, TOKEN, members

FLEET = "/root/fleet.yaml"
LOG = "/root/apply.jsonl"
TOKEN_FILE = "/etc/rancher/cluster-token"
NOTHING_BEGUN = 6
PATIENCE = 600.0
"""Seconds; on a busy machine five servers with an etcd each are slow."""


@dataclasses.dataclass
class Fleet:
    controller: Node
    canary: list[Node]
    second: list[Node]

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.controller.exec(["k3s-ha-fleet", *arguments], check=False, timeout=PATIENCE)

    def json(self, command: str, *arguments: str) -> Any:
        done = self.run(command, FLEET, "-o", "json", *arguments)
        try:
            return {**json.loads(done.stdout), "returned": done.returncode}
        except ValueError:
            raise AssertionError(f"{done.returncode}\n{done.stdout}\n{done.stderr}") from None

    def log(self) -> list[dict[str, Any]]:
        """Every line of the log, which has to be whole JSON."""
        text = self.controller.read(LOG) if self.controller.exists(LOG) else ""
        return [json.loads(line) for line in text.splitlines()]

    def begun(self) -> list[tuple[str, str, str]]:
        """What was begun, in order: cluster, server, kind."""
        return [(e["cluster"], e["server"], e["kind"]) for e in self.log() if e["event"] == "operation-begun"]

    def operations(self) -> dict[str, list[tuple[str, str]]]:
        """What the servers' own records say: kind and outcome, by server."""
        nodes = [*self.canary, *self.second]
        return {node.name: [(r["kind"], r["outcome"]) for r in records(node)] for node in nodes}


@pytest.fixture
def fleet(
    new_server: Callable[..., Node], new_node: Callable[[str], Node], empty: Callable[[str], Node], deb: Path
) -> Fleet:
    controller = empty("n9")
    install(controller, deb)

    def joining(name: str, **agent: object) -> Node:
        node = new_node(name)
        node.agent_settings(**agent)
        node.standin(version="v1.22.2+k3s1", speed=CALM)
        node.chroot(["systemctl", "disable", "--quiet", K3S])
        node.boot()
        return node

    # The last of the canary holds still for a minute before it commits: there is time to pull its plug.
    canary = [new_server("n1", speed=CALM), joining("n2"), joining("n3", stability_window="1m")]
    # The other begins with an empty data dir: an authority, a token and a Node of its own, not those of the recording.
    second = [new_server("n4", rows=0, speed=CALM), joining("n5")]
    for number in range(20):
        second[0].create_config_map(f"of-the-second-{number}")
    remote.known_by_name(controller, *canary, *second)
    remote.make_authority(controller)
    remote.issue(controller, "controller")
    for node in (*canary, *second):
        remote.issue(controller, node.name, f"subjectAltName=DNS:{node.name}.example.org")
        remote.listen(controller, node)
    for node in canary[1:]:
        node.write(TOKEN_FILE, canary[0].read(TOKEN), mode=0o600)
    controller.write("/root/second.token", second[0].read(TOKEN), mode=0o600)
    controller.write(FLEET, yaml.safe_dump(described(canary, second)))
    return Fleet(controller, canary, second)


def described(canary: list[Node], second: list[Node]) -> dict[str, object]:
    def servers(nodes: list[Node]) -> list[dict[str, str]]:
        found = [{"name": node.name, "agent": remote.url(node)} for node in nodes]
        found[0]["k3s"] = f"https://{nodes[0].address}:6443"
        return found

    return {
        "fleet": "edge",
        "tls": {"ca": "ca.crt", "cert": "controller.crt", "key": "controller.key"},
        # More may fail than ever will: what stops a run is the canary alone.
        "waves": {"canary": ["berlin"], "size": 10, "stop_after_failures": 5},
        "defaults": {"join": {"token_file": TOKEN_FILE}},
        "clusters": [
            {"name": "hamburg", "join": {"controller_token_file": "second.token"}, "servers": servers(second)},
            {"name": "berlin", "servers": servers(canary)},
        ],
    }


def test_two_clusters_in_waves(fleet: Fleet) -> None:
    n1, n4 = fleet.canary[0], fleet.second[0]
    before = {node.name: node.kine_live() for node in (n1, n4)}

    planned = fleet.json("plan")
    assert planned["returned"] == planned["exit_code"] == 0, planned
    assert [(row["cluster"], row["server"], row["what"]) for row in planned["servers"]] == [
        ("hamburg", "n4", "migrate"), ("hamburg", "n5", "join"),
        ("berlin", "n1", "migrate"), ("berlin", "n2", "join"), ("berlin", "n3", "join"),
    ]  # fmt: skip
    assert fleet.operations() == {name: [] for name in ("n1", "n2", "n3", "n4", "n5")}, "a plan begins nothing"

    stopped = pull_the_plug(fleet)
    assert stopped.returncode == NOTHING_BEGUN, stopped.stdout + stopped.stderr
    assert "berlin" in stopped.stdout and "hamburg" in stopped.stdout
    ends = {e["cluster"]: e for e in fleet.log() if e["event"] == "cluster-ended"}
    assert (ends["berlin"]["result"], ends["berlin"]["server"]) == ("rolled_back", "n3"), ends
    assert "hamburg" not in ends and fleet.begun() == BERLIN
    assert members(n1) == {"n1": "voter", "n2": "voter"}
    assert fleet.operations()["n4"] == []

    held = fleet.run("apply", FLEET)
    assert held.returncode == NOTHING_BEGUN, held.stdout
    assert fleet.operations()["n3"] == [("join", "rolled_back")], "what went back stays back"

    done = fleet.json("apply", "--retry", "--log", LOG)
    assert done["returned"] == done["exit_code"] == 0, done
    assert {each["cluster"]: each["result"] for each in done["clusters"]} == {"berlin": "done", "hamburg": "done"}
    assert fleet.begun() == [*BERLIN, ("berlin", "n3", "join"), ("hamburg", "n4", "migrate"), ("hamburg", "n5", "join")]
    on_one_etcd(fleet.canary, before["n1"])
    on_one_etcd(fleet.second, before["n4"])
    told = [(e["event"], e["cluster"] or e.get("wave")) for e in fleet.log()]
    assert told.index(("cluster-began", "hamburg")) > told.index(("wave-ended", "canary"))
    assert fleet.log()[-1]["counts"]["done"] == 2

    operations = fleet.operations()
    again = fleet.json("apply")
    assert (again["returned"], again["counts"]["done"]) == (0, 2)
    assert fleet.operations() == operations, "nothing is begun on a fleet that is done"
    status = fleet.json("status")
    assert status["returned"] == 0
    assert {row["what"] for row in status["servers"]} == {"done"} and len(status["servers"]) == 5, status

    password = n4.read(TOKEN).strip().rpartition(":")[2]
    assert password and password not in fleet.controller.read(LOG)


BERLIN = [("berlin", "n1", "migrate"), ("berlin", "n2", "join"), ("berlin", "n3", "join")]


def pull_the_plug(fleet: Fleet) -> subprocess.CompletedProcess[str]:
    """``apply``, and n3 killed whole while it joins, as soon as it is a member."""
    n1, _, n3 = fleet.canary
    apply = fleet.controller.spawn(["k3s-ha-fleet", "apply", FLEET, "--log", LOG])
    n1.wait_for(lambda: "n3" in members(n1) or apply.poll() is not None, timeout=180, what="n3 is a member")
    assert apply.poll() is None, apply.communicate()
    n3.kill()
    n3.agent_settings()
    n3.boot()
    n3.wait_for(lambda: apply.poll() is not None, timeout=PATIENCE - 150, what="apply has ended")
    out, err = apply.communicate()
    return subprocess.CompletedProcess(["apply"], apply.returncode, out, err)


def on_one_etcd(nodes: list[Node], before: Keys) -> None:
    """By etcdctl alone: these servers and no others are voters of one etcd, and it has every key there was."""
    listed = json.loads(nodes[0].etcdctl("member", "list", "--write-out=json").stdout)["members"]
    assert not any(member.get("isLearner") for member in listed)
    addresses = sorted(url.partition("//")[2].rpartition(":")[0] for member in listed for url in member["peerURLs"])
    assert addresses == sorted(node.address for node in nodes)
    for node in nodes:
        assert_same(before, node.etcd_live(), ignore=CHANGING)
