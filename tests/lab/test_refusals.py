"""Every preflight refusal that can be brought about on a server: the check is named, and nothing is changed.

Each case changes one thing on a server that could be migrated, and mends it afterwards. The server's k3s keeps no
leases here, so that nothing but the agent could write; what is compared is every file below k3s's data dir and
/etc, with its content, owner, mode, inode and mtime. Left out is state.db-shm alone: in it SQLite's readers, of which
the agent is one, mark how far they have read.

Not here: ``unfinished-operation`` (the API answers 409 first, see test_api_in_lab.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from k3s_ha_agent.model import Kind
from k3s_ha_agent.preflight.run import checks_for
from tests.lab.lab import Lab
from tests.lab.node import AGENT, K3S, SERVER, Node
from tests.lab.scenarios import (
    DB,
    DONE,
    DROP_IN,
    GATE,
    QUARANTINE,
    REFUSED,
    STATE,
    VERSION,
    SharedServer,
    operate,
    records,
)

CONFIG = "/etc/rancher/k3s/config.yaml"
SPEED: dict[str, object] = {"heartbeat_interval": 0}
Case = Callable[[Node], AbstractContextManager[None]]


@pytest.fixture(scope="module")
def shared(lab: Lab) -> Iterator[SharedServer]:
    if lab.k3s_binary:
        pytest.skip("needs the stand-in k3s: a real one writes all the time")
    server = SharedServer(lab, rows=50, speed=SPEED)
    yield server
    server.close()


@pytest.fixture
def server(shared: SharedServer) -> Node:
    return shared.ready()


# --- how a server comes to be refused ---------------------------------------------------------------


def configured(text: str) -> Case:
    """k3s's config.yaml says this; it has none otherwise."""

    @contextmanager
    def case(node: Node) -> Iterator[None]:
        node.write(CONFIG, text, mode=0o600)
        try:
            yield
        finally:
            node.remove(CONFIG)

    return case


def there(path: str, text: str = "") -> Case:
    """A file is there that should not be."""

    @contextmanager
    def case(node: Node) -> Iterator[None]:
        made = next(str(top) for top in reversed((Path(path), *Path(path).parents)) if not node.exists(str(top)))
        node.write(path, text)
        try:
            yield
        finally:
            node.remove(made)

    return case


def away(*paths: str) -> Case:
    """Files are not where they should be; k3s has them open and does not notice."""

    @contextmanager
    def case(node: Node) -> Iterator[None]:
        for path in paths:
            node.path(path).rename(node.path(f"{path}.away"))
        try:
            yield
        finally:
            for path in paths:
                node.path(f"{path}.away").rename(node.path(path))

    return case


def replaced(make: str) -> Case:
    """state.db is another one, which ``make`` (shell) writes to $1."""

    @contextmanager
    def case(node: Node) -> Iterator[None]:
        with away(f"{DB}/state.db", f"{DB}/state.db-wal", f"{DB}/state.db-shm")(node):
            node.exec(["sh", "-ec", make, "sh", f"{DB}/state.db"])
            try:
                yield
            finally:
                for path in node.path(DB).glob("state.db*"):
                    if path.suffix != ".away":
                        path.unlink()

    return case


def in_force(before: str, after: str) -> Case:
    """A command of the node's, and the one that takes it back."""

    @contextmanager
    def case(node: Node) -> Iterator[None]:
        node.exec(["sh", "-ec", before])
        try:
            yield
        finally:
            node.exec(["sh", "-ec", after])

    return case


def version(text: str) -> Case:
    """The binary on disk is another one now."""

    @contextmanager
    def case(node: Node) -> Iterator[None]:
        node.standin(version=text, speed=SPEED)
        try:
            yield
        finally:
            node.standin(version=VERSION, speed=SPEED)

    return case


@contextmanager
def not_ready(node: Node) -> Iterator[None]:
    """The Node says that it is not Ready."""
    path = f"/api/v1/nodes/{node.name}"
    good = node.kubectl(path).json["status"]["conditions"]
    bad = [{**each, "status": "False"} if each["type"] == "Ready" else each for each in good]
    assert node.kubectl(path, "PATCH", {"status": {"conditions": bad}}).status == 200
    try:
        yield
    finally:
        assert node.kubectl(path, "PATCH", {"status": {"conditions": good}}).status == 200


@contextmanager
def big_value(node: Node) -> Iterator[None]:
    path = "/api/v1/namespaces/default/configmaps"
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "big"}, "data": {"big": "x" * 1_600_000}}
    assert node.kubectl(path, "POST", body).status == 201
    try:
        yield
    finally:
        assert node.kubectl(f"{path}/big", "DELETE").status == 200


@contextmanager
def slow_disk(node: Node) -> Iterator[None]:
    restarted(node, fsync_warn="0.001ms", fsync_refuse="0.001ms")
    try:
        yield
    finally:
        restarted(node)


def restarted(node: Node, **settings: object) -> None:
    """The agent, with these settings."""
    node.agent_settings(**settings)
    node.systemctl("restart", AGENT)
    node.wait_for_agent()


UNIT_DROP_IN = "/etc/systemd/system/k3s.service.d/zz-lab.conf"
AS_AGENT = f"""mkdir -p {UNIT_DROP_IN.rpartition("/")[0]}
printf '[Service]\\nExecStart=\\nExecStart=/usr/local/bin/k3s agent\\n' >{UNIT_DROP_IN}
systemctl daemon-reload"""
ELSEWHERE = "[Service]\nEnvironment=K3S_DATASTORE_ENDPOINT=mysql://db/k3s\n"
"""What systemd does not know of before a daemon-reload, and would with the gate's."""
NO_MORE = f"rm -r {UNIT_DROP_IN.rpartition('/')[0]}; systemctl daemon-reload"
LITTLE_MEMORY = """exec >/tmp/memory
printf '%s kB\\n' 'MemTotal: 8000' 'MemFree: 500' 'MemAvailable: 400' 'Buffers: 0' 'Cached: 0'
mount --bind /tmp/memory /proc/meminfo"""
LISTENS = "systemd-run --quiet --unit=lab-listens python3 -m http.server 2379"
EMPTY = """cp $1.away $1; cp $1-wal.away $1-wal; python3 -c '
import sqlite3, sys
sqlite3.connect(sys.argv[1], isolation_level=None).execute("DELETE FROM kine WHERE name LIKE ?", ["/registry/%"])
' $1"""
CORRUPT = "cp $1.away $1; dd if=/dev/zero of=$1 bs=4096 seek=5 count=20 conv=notrunc status=none"
CONFIG_D = DROP_IN.rpartition("/")[0]
FULL = f"mkdir {CONFIG_D}; mount -t tmpfs -o size=64k none {CONFIG_D}"
READ_ONLY = f"mkdir {CONFIG_D}; mount -t tmpfs -o ro none {CONFIG_D}"
NO_MOUNT = f"umount {CONFIG_D}; rmdir {CONFIG_D}"
MOUNTED = f"mkdir -p {QUARANTINE}; mount --bind {QUARANTINE} {QUARANTINE}"

CASES: dict[str, tuple[str, Case]] = {
    "an-agent-node": ("agent-node", in_force(AS_AGENT, NO_MORE)),
    "another-token": ("bootstrap-key", configured("token: another\n")),
    "cluster-init": ("cluster-init", configured("cluster-init: true\n")),
    "cluster-reset": ("cluster-reset", configured("cluster-reset: true\n")),
    "reset-flag": ("cluster-reset", there(f"{DB}/reset-flag")),
    "our-drop-in": ("config-drop-in", there(DROP_IN, "# nothing yet\n")),
    "unreadable-configuration": ("configuration", configured("node-ip: [\n")),
    "no-client-key": ("credentials", away(f"{SERVER}/tls/etcd/client.key")),
    "another-data-dir": ("data-dir", configured("data-dir: /srv/k3s\n")),
    "half-copied": ("datastore", there(f"{DB}/etcd/member/wal/0.wal")),
    "no-datastore": ("datastore", away(f"{DB}/state.db", f"{DB}/state.db-wal", f"{DB}/state.db-shm")),
    "no-agent-component": ("disabled-components", configured("disable-agent: true\n")),
    "full-disk": ("disk", in_force(FULL, NO_MOUNT)),
    "external-datastore": ("external-datastore", configured("datastore-endpoint: postgres://db/k3s\n")),
    "external-datastore-in-the-environment": (
        "external-datastore", there("/etc/default/k3s", "K3S_DATASTORE_ENDPOINT=mysql://db/k3s\n")
    ),
    "a-gate-of-nobody": ("gate", there(GATE, "[Service]\n")),
    "leftovers": ("leftovers", there(f"{DB}/etcd-tmp/member/snap/db")),
    "a-link": ("links", in_force(f"cd {DB}; mv state.db real; ln -s real state.db", f"mv {DB}/real {DB}/state.db")),
    "empty-database": ("live-rows", replaced(EMPTY)),
    "no-network": ("dual-stack", configured("service-cidr: 10.43.0.0/99\n")),
    "no-memory": ("memory", in_force(LITTLE_MEMORY, "umount /proc/meminfo")),
    "node-not-ready": ("node", not_ready),
    "another-address": ("node-address", configured("node-ip: 10.89.0.99\n")),
    "a-unit-not-read-anew": ("pending-changes", there(UNIT_DROP_IN, ELSEWHERE)),
    "port-taken": ("ports", in_force(LISTENS, "systemctl stop lab-listens")),
    "small-quota": ("quota", configured("etcd-arg: [quota-backend-bytes=300000]\n")),
    "big-value": ("request-size", big_value),
    "replaced-binary": ("running-version", version("v1.22.3+k3s1")),
    "quarantine-on-a-mount": ("same-mount", in_force(MOUNTED, f"umount {QUARANTINE}; rmdir -p {QUARANTINE} || :")),
    "joins-another-server": ("server-url", configured("server: https://10.89.0.12:6443\n")),
    "slow-disk": ("slow-disk", slow_disk),
    "corrupt-database": ("sqlite", replaced(CORRUPT)),
    "stale-migrated": ("stale-migrated", there(f"{DB}/state.db.migrated", "older data")),
    "no-token": ("token", away(f"{SERVER}/token")),
    "tombstone": ("tombstone", there(f"{DB}/etcd/tombstone")),
    "k3s-stopped": ("unit", in_force("systemctl stop k3s", "systemctl start k3s")),
    "old-release": ("version", version("v1.22.1+k3s1")),
    "broken-release": ("version", version("v1.32.5+k3s1")),
    "read-only-configuration": ("writable", in_force(READ_ONLY, NO_MOUNT)),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_refused_and_nothing_changed(server: Node, name: str) -> None:
    check, case = CASES[name]
    with case(server):
        before, unit = everything(server), k3s_unit(server)
        code, problem = operate(server, "migrate")
        assert (code, problem["status"], problem["code"]) == (REFUSED, 412, "preflight-failed"), problem
        refused = {item["name"]: item for item in problem["checks"] if item["status"] == "refused"}
        assert check in refused, refused
        assert refused[check]["found"] and refused[check]["needs"] and refused[check]["remedy"]
        assert f"{check}: " in problem["detail"]
        assert everything(server) == before
        assert k3s_unit(server) == unit
        assert records(server) == []


def test_every_check_that_refuses_has_a_case() -> None:
    """A new check that can refuse a migration is brought about here, too."""
    refusing = {check.name for check in checks_for(Kind.MIGRATE) if check.about.refuses}
    assert {check for check, _ in CASES.values()} == refusing - {"unfinished-operation"}


def test_a_hostname_that_comes_late_is_seen(server: Node) -> None:
    """By DHCP or hostnamectl, after the agent was started: k3s calls its Node by it at its next start."""
    with in_force("hostname renamed", f"hostname {server.name}")(server):
        assert server.api("GET", "/v1/status").json["node"]["node_name"] == "renamed"
    assert server.api("GET", "/v1/status").json["node"]["node_name"] == server.name


def test_a_server_on_etcd_is_refused(server: Node) -> None:
    """And the server of all the refusals before could be migrated all the time."""
    code, _ = operate(server, "migrate")
    assert code == DONE
    before, unit = everything(server, etcd=True), k3s_unit(server)
    code, problem = operate(server, "migrate")
    assert (code, problem["code"]) == (REFUSED, "preflight-failed")
    assert "datastore" in {item["name"] for item in problem["checks"] if item["status"] == "refused"}
    assert (everything(server, etcd=True), k3s_unit(server)) == (before, unit)
    assert len(records(server)) == 1


def everything(node: Node, *, etcd: bool = False) -> dict[str, object]:
    """All that could have been changed; with ``etcd`` not what an etcd in use writes."""
    writes = [
        f"{DB}/state.db-shm*",
        f"{STATE}/preflight.lock",
        f"{STATE}/audit.jsonl",
        *([f"{DB}/etcd/member/*"] if etcd else []),
    ]
    found: dict[str, object] = {}
    for path, facts in node.tree("/var/lib/rancher", "/etc", STATE, exclude=writes).items():
        status = node.path(path).lstat()
        # The agent makes its copies of the database in its own directory, whose mtime that changes.
        found[path] = (facts, status.st_ino, status.st_mtime_ns if path != STATE else None)
    return found


def k3s_unit(node: Node) -> dict[str, str]:
    return node.show(K3S, "InvocationID", "MainPID", "NRestarts", "ActiveState", "Restart", "DropInPaths")
