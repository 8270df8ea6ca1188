"""A join looked at against real stand-in servers in networks of their own: each refusal, and nothing changed."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from k3s_ha_agent.model import CheckStatus
from k3s_ha_agent.preflight.cluster import ClusterFacts
from k3s_ha_agent.preflight.results import Missing
from tests.crash.datastores import WRITTEN_BY_ITSELF, sqlite_keys
from tests.dbus.harness import FakeSystemd, PrivateBus
from tests.standin.harness import K3s, wait_for
from tests.standin.networks import ip, machines, own_network
from tests.standin.test_standin_cluster import first, joining, members, up_in_the_end
from tests.unit.preflight.joiner import ADDRESS, Joiner, cluster_state, refused
from tests.unit.preflight.server import tree

ADDRESSES = ("10.99.0.11", "10.99.0.12")
VERSION = "v1.22.2+k3s1"
SECRET = "/api/v1/namespaces/kube-system/secrets"


class Scene:
    """Two servers of a cluster, and one that wants to be the third."""

    def __init__(self, n1: K3s, n2: K3s, joiner: Joiner) -> None:
        self.n1, self.n2, self.joiner = n1, n2, joiner
        self.url = f"https://{n1.address}:6443"

    @property
    def token(self) -> str:
        return (self.n1.server / "token").read_text().strip()

    def refuses(self, *checks: str, url: str = "", token: str = "") -> dict[str, Any]:
        before = cluster_state([self.n1, self.n2])
        _, found, _ = self.joiner.look(url or self.url, token or self.token)
        assert refused(found) == set(checks), {n: r.found for n, r in found.items()}
        after = cluster_state([self.n1, self.n2])
        assert after == before, "nothing changes in the cluster"
        return found


@contextlib.contextmanager
def scene_in(directory: Path, version: str = VERSION) -> Iterator[Scene]:
    with own_network(), machines(*ADDRESSES) as enters, PrivateBus(directory) as bus:
        with FakeSystemd(directory, bus) as systemd:
            n1, n2 = (
                K3s(directory / f"n{number}", f"n{number}", address, enter)
                for number, (address, enter) in enumerate(zip(ADDRESSES, enters, strict=True), start=1)
            )
            try:
                yield Scene(n1, n2, Joiner(directory / "joiner", bus.address, systemd, version))
            finally:
                n1.clean()
                n2.clean()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """Of two servers, as 1.22.2."""
    directory = tmp_path_factory.mktemp("join")
    (directory / "joiner").mkdir()
    with scene_in(directory) as made:
        first(made.n1)
        joining(made.n2, made.n1)
        up_in_the_end(made.n2)
        wait_for("the etcd role", lambda: "etcd" in made.n2.roles and "etcd" in made.n1.roles)
        yield made


@pytest.fixture
def scene(cluster: Scene) -> Iterator[Scene]:
    yield cluster
    cluster.joiner.reset()


def test_nothing_stands_against_it(scene: Scene) -> None:
    before = cluster_state([scene.n1, scene.n2])
    subject, found, facts = scene.joiner.look(scene.url, scene.token)
    assert found == {}
    assert cluster_state([scene.n1, scene.n2]) == before
    cluster = subject.cluster
    assert isinstance(cluster, ClusterFacts)
    assert not isinstance(cluster.ports, Missing) and len(cluster.ports) == 6
    assert not isinstance(cluster.etcd, Missing) and cluster.etcd.alarms == () and cluster.etcd.db_size > 0
    assert facts.pop("fsync_p99") == 0.002
    assert facts == {
        "node_name": "n9",
        "api_port": 6443,
        "k3s_version": VERSION,
        "node_ip": ADDRESS,
        "target": scene.url,
    }


def test_who_answers_must_be_the_tokens_cluster_and_take_it(scene: Scene) -> None:
    ca, _, _ = scene.token.partition("::")
    found = scene.refuses("token-accepted", token=f"{ca}::server:wrong")
    assert "server/token" in found["token-accepted"].remedy
    scene.refuses("cluster-ca", token=f"K10{'0' * 64}::server:{scene.n1.password}")
    scene.refuses("cluster-ca", token=scene.n1.password)


def test_where_nobody_or_we_ourselves_answer(scene: Scene) -> None:
    scene.refuses("target-answers", url="https://10.99.0.99:6443")
    scene.refuses("target-answers", url=f"https://{scene.n1.address}:6444")
    scene.refuses("target-url", "target-answers", url=f"https://{ADDRESS}:6443")
    for url in ("http://10.99.0.11:6443", "10.99.0.11", "https://10.99.0.11", "https://u:p@10.99.0.11:6443"):
        found = scene.refuses("target-url", url=url)
        assert "u:p" not in found["target-url"].found


def test_a_name_that_is_not_in_the_certificate(scene: Scene) -> None:
    subprocess.run([*scene.n1.enter, "ip", "address", "add", "10.99.0.21/24", "dev", "eth0"], check=True)
    found = scene.refuses("certificate-name", url="https://10.99.0.21:6443")
    assert "10.99.0.21" in found["certificate-name"].found and "tls-san" in found["certificate-name"].remedy


def test_another_version(scene: Scene) -> None:
    scene.joiner.write_binary("v1.22.4+k3s1")
    found = scene.refuses("cluster-version")
    assert "n2 runs" in found["cluster-version"].found and VERSION in found["cluster-version"].found


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("cluster-cidr", "10.99.0.0/16"),
        ("service-cidr", "10.98.0.0/16"),
        ("cluster-dns", "10.43.0.99"),
        ("cluster-domain", "other.local"),
        ("flannel-backend", "none"),
        ("disable-cloud-controller", True),
        ("disable-helm-controller", True),
        ("disable-kube-proxy", True),
        ("disable-network-policy", True),
        ("secrets-encryption", True),
        ("disable", ["traefik"]),
    ],
)
def test_a_critical_flag_that_1_22_2_would_not_look_at(scene: Scene, flag: str, value: Any) -> None:
    scene.joiner.configure(**{flag: value})
    found = scene.refuses("critical-flags")
    assert (
        flag in found["critical-flags"].found and str(scene.joiner.settings.k3s_config) in found["critical-flags"].found
    )


def test_a_name_that_is_taken(scene: Scene) -> None:
    scene.joiner.configure(**{"node-name": "n2"})
    found = scene.refuses("node-name-free", "member-name-free")
    assert scene.n2.address in found["node-name-free"].found


def test_a_name_that_k3s_has_yet_to_make(scene: Scene) -> None:
    """With ``with-node-id`` a part of the name is random, once: a join that is taken back has to know it."""
    scene.joiner.configure(**{"with-node-id": True})
    scene.refuses("node-name-free")
    identity = scene.joiner.settings.root / "etc/rancher/node/id"
    identity.parent.mkdir(parents=True, exist_ok=True)
    identity.write_text("0a1b2c3d\n")
    try:
        scene.refuses()
    finally:
        identity.unlink()


def test_an_address_that_is_taken(scene: Scene) -> None:
    """As after a copied configuration; the address is then not this machine's either."""
    scene.joiner.configure(**{"node-ip": scene.n2.address})
    found = scene.refuses("node-address-free", "own-address")
    assert "Node n2 and etcd member n2-" in found["node-address-free"].found


def test_a_node_password_of_somebody_else(scene: Scene) -> None:
    n2, file = scene.n2, scene.n2.directory / "made-by-k3s"
    joiner = scene.joiner
    kept = made_by_the_standin(n2, file)
    body = {"metadata": {"name": "n9.node-password.k3s"}, "data": {"hash": kept}}
    assert scene.n1.http(SECRET, method="POST", body=body)[0] == 201
    try:
        scene.refuses("node-password")
        joiner.password_file.parent.mkdir(parents=True, exist_ok=True)
        joiner.password_file.write_text("another\n")
        found = scene.refuses("node-password")
        assert "n9.node-password.k3s" in found["node-password"].remedy
        joiner.password_file.write_bytes(file.read_bytes())
        scene.refuses()
    finally:
        assert scene.n1.http(f"{SECRET}/n9.node-password.k3s", method="DELETE")[0] == 200
        joiner.password_file.unlink(missing_ok=True)


def made_by_the_standin(server: K3s, file: Path) -> str:
    """The hash a k3s writes for the password in ``file``, which it makes: taken from a restart of n2."""
    server.settings(version=VERSION, speed={"heartbeat_ms": 50, "election_ms": 500}, node_password_file=str(file))
    server.stop()
    up_in_the_end(server)
    status, secret = server.http(f"{SECRET}/{server.name}.node-password.k3s")
    assert status == 200
    return str(secret["data"]["hash"])


def test_a_server_that_cannot_be_reached_on_etcds_ports(scene: Scene) -> None:
    ip("route", "add", "blackhole", f"{scene.n2.address}/32")
    try:
        found = scene.refuses("server-ports")
    finally:
        ip("route", "del", "blackhole", f"{scene.n2.address}/32")
    for port in (2379, 2380, 6443):
        assert f"{scene.n2.address}:{port} of n2" in found["server-ports"].found
    scene.refuses()


def test_a_server_whose_node_is_not_ready(scene: Scene) -> None:
    body = {"status": {"conditions": [{"type": "Ready", "status": "False"}]}}
    status, node = scene.n1.http("/api/v1/nodes/n2")
    assert status == 200
    kept = node["status"]["conditions"]
    patch = {"method": "PATCH", "content_type": "application/merge-patch+json"}
    assert scene.n1.http("/api/v1/nodes/n2", body=body, **patch)[0] == 200
    try:
        found = scene.refuses("members-healthy")
    finally:
        restored = {"status": {"conditions": kept}}
        assert scene.n1.http("/api/v1/nodes/n2", body=restored, **patch)[0] == 200
    assert "n2 is not Ready" in found["members-healthy"].found


def test_an_alarm_that_is_raised(scene: Scene) -> None:
    """NOSPACE by etcd's own call: from then on it takes no writes."""
    alarm = {"memberID": scene.n1.gateway("maintenance/status", {})["header"]["member_id"], "alarm": "NOSPACE"}
    scene.n1.gateway("maintenance/alarm", {"action": "ACTIVATE", **alarm})
    try:
        found = scene.refuses("alarms")
    finally:
        scene.n1.gateway("maintenance/alarm", {"action": "DEACTIVATE", **alarm})
    assert "NOSPACE" in found["alarms"].found
    scene.refuses()


def test_a_clock_that_is_wrong(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours, half a minute and more ahead of theirs."""
    right = time.time
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: right() + 45)
        found = scene.refuses("cluster-clock")
    assert "behind ours" in found["cluster-clock"].found
    scene.refuses()


@pytest.mark.parametrize("where", ["env", "unit"])
def test_a_proxy_without_exemptions(scene: Scene, where: str) -> None:
    joiner = scene.joiner
    if where == "env":
        joiner.env.write_text("HTTPS_PROXY=http://user:hunter2@proxy:3128\nNO_PROXY=localhost,10.42.0.0/16\n")
    else:
        text = (joiner.systemd.units / "k3s.service").read_text()
        joiner.systemd.write_unit("k3s.service", f"{text}Environment=https_proxy=http://user:hunter2@proxy:3128\n")
    found = scene.refuses("proxies")
    assert scene.n2.address in found["proxies"].found and "hunter2" not in repr(found["proxies"])
    joiner.env.write_text(f"NO_PROXY=localhost,10.99.0.0/24\n{joiner.env.read_text().partition(chr(10))[0]}\n")
    scene.refuses()


def test_what_an_earlier_k3s_left(scene: Scene) -> None:
    data = scene.joiner.settings.data_dir
    (data / "server/manifests").mkdir(parents=True)
    (data / "server/manifests/mine.yaml").write_text("")
    (data / "server/db").mkdir()
    scene.refuses()
    (data / "server/db/state.db").write_text("")
    found = scene.refuses("empty-data-dir")
    assert "holds db." in found["empty-data-dir"].found
    (data / "server/db/state.db").unlink()
    (data / "agent").mkdir()
    (data / "agent/client-ca.crt").write_text("")
    found = scene.refuses()
    assert found["agent-state"].status is CheckStatus.WARNED
    (data / "agent/client-ca.crt").unlink()
    unit = scene.joiner.systemd.units / "k3s-agent.service"
    scene.joiner.systemd.write_unit("k3s-agent.service", "[Service]\nExecStart=/bin/true\n")
    try:
        scene.refuses("agent-state")
    finally:
        unit.unlink()


def test_another_configured_token_and_the_same(scene: Scene) -> None:
    scene.joiner.configure(token="another")
    assert "another token" in scene.refuses("configured-token")["configured-token"].found
    scene.joiner.configure(token=scene.n1.password)
    scene.refuses()


def test_a_server_that_is_told_to_join_already(scene: Scene) -> None:
    scene.joiner.configure(server=scene.url)
    scene.refuses("server-url")
    scene.joiner.configure(**{"cluster-init": True})
    scene.refuses("cluster-init")


# --- clusters of their own -------------------------------------------------------------------------------


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[[str], Scene]]:
    (tmp_path / "joiner").mkdir()
    with contextlib.ExitStack() as stack:
        yield lambda version: stack.enter_context(scene_in(tmp_path, version))


def sqlite_state(server: K3s) -> dict[str, Any]:
    """Its files but for the database, and every key but those k3s itself writes all the time."""
    keys = sqlite_keys(server.server / "db/state.db").items()
    quiet = tuple(prefix.encode() for prefix in WRITTEN_BY_ITSELF)
    files = [tree(server.server / name) for name in ("tls", "cred")]
    return {"keys": {k: v for k, v in keys if not k.startswith(quiet)}, "files": files}


@pytest.mark.parametrize("version", ["v1.22.2+k3s1", "v1.34.1+k3s1"])
def test_a_server_on_sqlite_is_not_joined(make: Callable[[str], Scene], version: str) -> None:
    scene = make(version)
    scene.n1.settings(version=version)
    scene.n1.up()
    before = sqlite_state(scene.n1)
    _, found, _ = scene.joiner.look(scene.url, scene.token)
    assert refused(found) == {"target-etcd"}
    assert sqlite_state(scene.n1) == before
    assert "migrate" in found["target-etcd"].remedy
    ca, _, _ = scene.token.partition("::")
    _, found, _ = scene.joiner.look(scene.url, f"{ca}::server:wrong")
    assert refused(found) == {"token-accepted"}


@pytest.mark.parametrize("version", ["v1.22.2+k3s1", "v1.34.1+k3s1"])
def test_a_learner_that_is_pending(make: Callable[[str], Scene], version: str) -> None:
    scene = make(version)
    first(scene.n1, version)
    wait_for("the etcd role", lambda: "etcd" in scene.n1.roles)
    _, found, _ = scene.joiner.look(scene.url, scene.token)
    # One server becomes two; later releases show etcd's alarms to nobody outside.
    assert set(found) == ({"quorum"} if version == VERSION else {"quorum", "alarms"}), found
    assert "one failure stops the cluster, add a third" in found["quorum"].found
    joining(scene.n2, scene.n1, version, faults={"die_at": "after-member-add"})
    scene.n2.start()
    assert scene.n2.wait_end() == -9
    pending = {"n1": True, "": False}
    assert members(scene.n1) == pending
    before = cluster_state([scene.n1]) if version == VERSION else None
    _, found, _ = scene.joiner.look(scene.url, scene.token)
    assert version != VERSION or cluster_state([scene.n1]) == before
    # Its port is not open yet: both are said.
    assert refused(found) == {"pending-learner", "server-ports"}
    assert "5 minutes" in found["pending-learner"].remedy
    assert members(scene.n1) == pending


def test_an_agent_token_of_its_own_hides_no_flag(make: Callable[[str], Scene]) -> None:
    """``node`` has then another password than ``server``; it is in the bootstrap data."""
    scene = make(VERSION)
    first(scene.n1)
    passwd = scene.n1.server / "cred/passwd"
    passwd.write_text(passwd.read_text().replace(f"{scene.n1.password},node", "agents,node"))
    subject, found, _ = scene.joiner.look(scene.url, scene.token)
    assert "critical-flags" not in found
    assert isinstance(subject.cluster, ClusterFacts) and not isinstance(subject.cluster.critical, Missing)
    assert "agents" not in json.dumps(dict(subject.cluster.critical))
