"""The stand-in on SQLite: seeded, started, written to, stopped."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import sqlite3
import time
from pathlib import Path

import pytest

from tests.standin.harness import RECORDING, K3s, wait_for


def test_version_is_the_one_of_the_settings(k3s: K3s) -> None:
    k3s.settings(version="v1.34.1+k3s1")
    done = k3s.run("--version")
    assert done.stdout.splitlines()[0].startswith("k3s version v1.34.1+k3s1 (")
    assert done.stdout.splitlines()[1].startswith("go version ")


def test_an_unknown_fault_is_an_error(k3s: K3s) -> None:
    k3s.settings(faults={"die_after_key": 3})
    done = k3s.run("server", "--config", str(k3s.config))
    assert done.returncode == 2
    assert "die_after_key" in done.stderr
    assert not k3s.db.exists()


def test_starts_on_the_recorded_database(k3s: K3s) -> None:
    k3s.up()
    assert not (k3s.db / "etcd").exists()
    rows = k3s.sqlite_rows()
    assert "/registry/configmaps/shop/order-9" in rows
    recorded = json.loads((RECORDING / "node-n1-sqlite.json").read_text())
    node = k3s.node()
    assert node["metadata"]["uid"] == recorded["metadata"]["uid"]
    assert node["status"]["capacity"] == recorded["status"]["capacity"]
    assert node["spec"] == recorded["spec"]
    assert k3s.roles == {"control-plane", "master"}
    status, thing = k3s.http("/api/v1/namespaces/shop/configmaps/order-9")
    assert status == 200
    assert thing["kind"] == "ConfigMap" and len(str(thing["data"])) > 2000


def test_token_hash_certificates_and_bootstrap_key_belong_together(k3s: K3s) -> None:
    k3s.up()
    token = (k3s.server / "token").read_text().strip()
    ca_hash, _, user = token.removeprefix("K10").partition("::")
    assert ca_hash == hashlib.sha256((k3s.server / "tls/server-ca.crt").read_bytes()).hexdigest()
    password = user.removeprefix("server:")
    assert password == (RECORDING / "token").read_text().strip().rpartition(":")[2]
    assert k3s.http("/cacerts", certificate=None)[1] == (k3s.server / "tls/server-ca.crt").read_text()
    with sqlite3.connect(f"file:{k3s.db / 'state.db'}?mode=ro", uri=True) as database:
        names = [name for (name,) in database.execute("SELECT name FROM kine WHERE name LIKE '/bootstrap/%'")]
    assert names == ["/bootstrap/" + hashlib.sha256(password.encode()).hexdigest()[:12]]
    assert (k3s.server / "token").stat().st_mode & 0o777 == 0o600
    assert (k3s.server / "node-token").resolve() == k3s.server / "token"


def test_the_kubernetes_paths_need_a_client_certificate(k3s: K3s) -> None:
    k3s.up()
    for path in ("/version", "/readyz", "/livez", "/api/v1/nodes"):
        assert k3s.http(path, certificate=None)[0] == 401
        assert k3s.http(path, certificate=None, user="server")[0] == 401
        assert k3s.http(path)[0] == 200
    assert k3s.http("/version")[1]["gitVersion"] == "v1.22.2+k3s1"
    assert k3s.http("/ping", certificate=None) == (200, "pong")
    assert k3s.http("/readyz", port=6444, host="127.0.0.1") == (200, "ok")


def test_supervisor_paths_know_their_user(k3s: K3s) -> None:
    k3s.up()
    for path in ("readyz", "config", "apiservers"):
        assert k3s.http(f"/v1-k3s/{path}", certificate=None)[0] == 401
        assert k3s.http(f"/v1-k3s/{path}", certificate=None, user="node", password="wrong")[0] == 401
        assert k3s.http(f"/v1-k3s/{path}", certificate=None, user="node")[0] == 200
    config = k3s.http("/v1-k3s/config", user="node")[1]
    recorded = json.loads((RECORDING / "v1-k3s-config.json").read_text())
    assert config.keys() == recorded.keys()
    for field in ("ClusterIPRanges", "ServiceIPRanges", "ClusterDNSs", "ClusterDomain", "FlannelBackend", "HTTPSPort"):
        assert config[field] == recorded[field]
    assert config["ServerNodeName"] == "n1" and config["DataDir"] == str(k3s.server)


@pytest.mark.parametrize(
    ("version", "info", "anonymous", "bootstrap"),
    [("v1.22.2+k3s1", 401, 401, 401), ("v1.34.1+k3s1", 400, 400, 400), ("v1.35.1+k3s1", 400, 400, 400)],
)
def test_db_info_on_sqlite_by_version(k3s: K3s, version: str, info: int, anonymous: int, bootstrap: int) -> None:
    k3s.settings(version=version, seed=str(RECORDING / "sqlite"))
    k3s.up()
    status, answer = k3s.http("/db/info", user="server", certificate=None)
    assert status == info
    assert k3s.http("/db/info", certificate=None, host="127.0.0.1")[0] == anonymous
    assert k3s.http("/v1-k3s/server-bootstrap", user="server", certificate=None)[0] == bootstrap
    if status == 400:
        assert answer["message"] == "etcd datastore disabled"
    assert (k3s.db / "etcd/name").exists() == (version != "v1.22.2+k3s1")
    k3s.stop()
    k3s.up()  # db/etcd alone decides nothing
    assert not (k3s.db / "etcd/member").exists()
    assert k3s.http("/api/v1/namespaces/shop/configmaps/order-9")[0] == 200


def test_the_later_place_wins_and_plus_appends(k3s: K3s) -> None:
    k3s.configure(**{"cluster-domain": "one", "disable": ["traefik"], "flannel-backend": "none", "unknown": 1})
    drop_ins = k3s.directory / "config.yaml.d"
    drop_ins.mkdir()
    (drop_ins / "a.yaml").write_text("cluster-domain: two\nflannel-backend: host-gw\ndisable+: [servicelb]\n")
    (drop_ins / "b.yml").write_text("cluster-domain: three\n")
    (drop_ins / "c.txt").write_text("cluster-domain: four\n")
    env = {"K3S_CLUSTER_INIT": "false", "K3S_NODE_NAME": "other"}
    k3s.up("--cluster-domain", "five", "--flannel-backend=wireguard", env=env)
    config = k3s.http("/v1-k3s/config", user="node")[1]
    assert (config["ClusterDomain"], config["FlannelBackend"]) == ("five", "wireguard")
    assert config["Disables"] == {"traefik": True, "servicelb": True}
    assert config["ServerNodeName"] == "n1"
    assert "Unknown flag --unknown found in config.yaml, skipping" in k3s.log
    k3s.stop()
    k3s.up()
    config = k3s.http("/v1-k3s/config", user="node")[1]
    assert (config["ClusterDomain"], config["FlannelBackend"]) == ("three", "host-gw")


def test_writes_are_rows_as_kine_writes_them(k3s: K3s) -> None:
    k3s.settings(seed=str(RECORDING / "sqlite"), speed={"heartbeat_interval": 0})
    k3s.up()
    path, body = "/api/v1/namespaces/shop/configmaps", {"metadata": {"name": "mine"}, "data": {"a": "1"}}
    status, made = k3s.http(path, method="POST", body=body)
    assert status == 201
    assert k3s.http(path, method="POST", body=body)[0] == 409
    first = int(made["metadata"]["resourceVersion"])
    patch = {"data": {"a": None, "b": "2"}}
    status, changed = k3s.http(f"{path}/mine", method="PATCH", body=patch, content_type="application/merge-patch+json")
    assert (status, changed["data"]) == (200, {"b": "2"})
    second = int(changed["metadata"]["resourceVersion"])
    stale = {**made, "data": {"c": "3"}}
    assert k3s.http(f"{path}/mine", method="PUT", body=stale)[0] == 409
    assert k3s.http(f"{path}/mine", method="DELETE")[0] == 200
    assert k3s.http(f"{path}/mine")[0] == 404
    assert k3s.http(path, method="POST", body=body)[0] == 201
    with sqlite3.connect(f"file:{k3s.db / 'state.db'}?mode=ro", uri=True) as database:
        rows = database.execute(
            "SELECT id, created, deleted, create_revision, prev_revision, old_value IS NULL FROM kine"
            " WHERE name = '/registry/configmaps/shop/mine' ORDER BY id"
        ).fetchall()
    assert rows == [
        (first, 1, 0, 0, 0, 1),
        (second, 0, 0, first, first, 0),
        (second + 1, 0, 1, first, second, 0),
        (second + 2, 1, 0, 0, second + 1, 0),
    ]


def test_it_goes_on_writing_by_itself(k3s: K3s) -> None:
    k3s.settings(seed=str(RECORDING / "sqlite"), speed={"heartbeat_interval": 0.05})
    k3s.up()
    key = "/registry/leases/kube-node-lease/n1"
    before = k3s.sqlite_rows()[key]
    wait_for("another lease row", lambda: k3s.sqlite_rows()[key] != before)
    assert k3s.sqlite_rows()["/registry/masterleases/10.99.0.11"].startswith(b"k8s\0")


def test_stop_leaves_the_wal_and_the_rows_that_are_only_there(k3s: K3s) -> None:
    k3s.up()
    body = {"metadata": {"name": "late"}, "data": {}}
    assert k3s.http("/api/v1/namespaces/shop/configmaps", method="POST", body=body)[0] == 201
    assert k3s.stop() == 0
    key = "/registry/configmaps/shop/late"
    assert key in k3s.sqlite_rows()
    assert key not in k3s.sqlite_rows(wal=False)
    k3s.up()
    assert k3s.http("/api/v1/namespaces/shop/configmaps/late")[0] == 200


def test_later_releases_truncate_the_wal_on_open_and_close_it_on_stop(k3s: K3s) -> None:
    k3s.up()
    k3s.stop()
    full = (k3s.db / "state.db-wal").stat().st_size
    k3s.settings(version="v1.22.4+k3s1", speed={"heartbeat_interval": 0})
    k3s.up()
    assert (k3s.db / "state.db-wal").stat().st_size < full
    k3s.stop()
    assert (k3s.db / "state.db-wal").stat().st_size > 0
    k3s.settings(version="v1.34.1+k3s1")
    k3s.up()
    k3s.stop()
    assert not (k3s.db / "state.db-wal").exists()


def test_sigkill_and_start_again_loses_nothing(k3s: K3s) -> None:
    k3s.up()
    body = {"metadata": {"name": "late"}, "data": {}}
    k3s.http("/api/v1/namespaces/shop/configmaps", method="POST", body=body)
    k3s.kill()
    k3s.up()
    assert k3s.http("/api/v1/namespaces/shop/configmaps/late")[0] == 200


def test_containers_outlive_it(k3s: K3s) -> None:
    k3s.settings(seed=str(RECORDING / "sqlite"), shim=True)
    k3s.up()
    k3s.stop()
    names = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.readlink(f"/proc/{pid}/cwd") == str(k3s.server):
                names.append(Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0])
        except OSError:
            continue
    assert names == [b"containerd-shim-runc-v2"]


@pytest.mark.parametrize("abstract", [False, True])
def test_it_says_ready_to_systemd_when_the_api_is_ready(k3s: K3s, tmp_path: Path, abstract: bool) -> None:
    name = f"\0standin-{tmp_path}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(name)
        receiver.settimeout(60)
        k3s.start(env={"NOTIFY_SOCKET": name.replace("\0", "@")})
        assert receiver.recv(100) == b"READY=1\n"
    assert k3s.http("/readyz") == (200, "ok")


def test_the_api_may_never_become_ready(k3s: K3s) -> None:
    k3s.settings(seed=str(RECORDING / "sqlite"), faults={"api_never_ready": True})
    k3s.start()
    k3s.wait_line("Waiting for API server")
    assert k3s.http("/ping") == (200, "pong")
    assert k3s.http("/readyz")[0] == 503
    assert k3s.http("/v1-k3s/readyz", user="node")[0] == 500
    assert "up and running" not in k3s.log


def test_the_api_may_hang_after_ready(k3s: K3s) -> None:
    k3s.settings(seed=str(RECORDING / "sqlite"), faults={"api_hang_after_ready": True})
    k3s.up()
    assert k3s.http("/ping") == (200, "pong")
    with pytest.raises(TimeoutError):
        wait_for("no answer", lambda: k3s.http("/readyz", timeout=1) and None)


def test_a_deleted_node_goes_when_its_finalizer_is_off(k3s: K3s) -> None:
    k3s.up()
    assert k3s.http("/api/v1/nodes/n1", method="DELETE")[1]["metadata"]["deletionTimestamp"]
    wait_for("the end of the Node", lambda: k3s.http("/api/v1/nodes/n1")[0] == 404)
    k3s.stop()
    k3s.up()
    assert k3s.http("/api/v1/nodes/n1")[0] == 200


def test_seeding_adds_rows_that_lie_in_the_wal(k3s: K3s) -> None:
    words = ("standin-seed", "-d", str(k3s.data_dir), "--configmaps", "40", "--bytes", "500", "--leased", "3")
    assert k3s.run(*words, "--updates", "5", "--deletes", "2").returncode == 0
    rows = k3s.sqlite_rows()
    seeded = [key for key in rows if key.startswith("/registry/configmaps/seeded/")]
    assert len(seeded) == 38
    assert len(json.loads(rows[seeded[-1]])["data"]["content"]) == 500
    with sqlite3.connect(f"file:{k3s.db / 'state.db'}?mode=ro", uri=True) as database:
        wanted = "name LIKE '/registry/events/seeded/%' AND lease = 3660"
        assert database.execute(f"SELECT COUNT(*) FROM kine WHERE {wanted}").fetchone() == (3,)
    k3s.settings()
    k3s.up()
    assert k3s.http("/api/v1/namespaces/seeded/configmaps")[1]["items"][0]["metadata"]["name"] == "seed-00000"


def test_its_first_act_comes_soon(k3s: K3s) -> None:
    """Not a time asserted: the figure is printed for whoever looks (pytest -s)."""
    began = time.monotonic()
    k3s.up()
    print(f"seeded and ready after {time.monotonic() - began:.2f} s")
