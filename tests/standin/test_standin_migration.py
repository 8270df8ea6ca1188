"""The native conversion of the stand-in, undisturbed, and what decides for it."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest
import yaml

from tests.standin.conversion import ALL, NEW, SEED, port, prepare
from tests.standin.harness import RECORDING, K3s, wait_for


def ordered(k3s: K3s, *texts: str) -> None:
    """The log has these lines in this order."""
    position = 0
    for text in texts:
        found = k3s.log.find(text, position)
        assert found >= 0, f"{text!r} is missing or out of order in\n{k3s.messages}"
        position = found


@pytest.mark.parametrize("version", ALL)
def test_a_whole_conversion(k3s: K3s, version: str) -> None:
    prepare(k3s, version)
    before, inode = k3s.sqlite_rows(), (k3s.db / "state.db").stat().st_ino
    k3s.up()
    assert k3s.migrated_keys == list(before)
    assert k3s.etcd_at_end_of_copy(port=port(version)) == before
    assert (k3s.db / "state.db.migrated").stat().st_ino == inode
    assert not (k3s.db / "state.db").exists()
    if version not in NEW:
        assert (k3s.db / "state.db-wal").exists()
    ordered(k3s, "Managed etcd cluster initializing", "Migrating content from sqlite to etcd", "Migrating etcd key",
            "Kube API server is now running", "k3s is up and running")  # fmt: skip
    assert k3s.http("/api/v1/namespaces/shop/configmaps/late")[1]["data"] == {"only": "in the WAL"}
    wait_for("the etcd role", lambda: "etcd" in k3s.roles)
    annotations = k3s.node()["metadata"]["annotations"]
    assert annotations["etcd.k3s.cattle.io/node-name"] == (k3s.db / "etcd/name").read_text()
    assert annotations["etcd.k3s.cattle.io/node-address"] == "10.99.0.11"
    assert k3s.stop() == 0


@pytest.mark.parametrize("version", ALL)
def test_without_sqlite_there_is_nothing_to_copy(k3s: K3s, version: str) -> None:
    k3s.settings(version=version)
    k3s.cluster_init()
    k3s.up()
    assert "Migrating" not in k3s.log
    wait_for("the etcd role", lambda: "etcd" in k3s.roles)
    assert ("master" in k3s.roles) == (version not in NEW)
    voter = [c["status"] for c in k3s.node()["status"]["conditions"] if c["type"] == "EtcdIsVoter"]
    assert voter == (["True"] if version in NEW else [])


def test_each_key_is_a_put_of_its_own_in_kine_order(k3s: K3s) -> None:
    prepare(k3s)
    keys = list(k3s.sqlite_rows())
    k3s.up()
    (bootstrap,) = k3s.etcd_keys("/bootstrap/").values()
    end = int(bootstrap["create_revision"])
    copied = k3s.etcd_keys(revision=end - 1)
    assert [(int(copied[key]["create_revision"]), copied[key]["version"]) for key in keys] == [
        (number, "1") for number in range(2, len(keys) + 2)
    ]
    assert end == len(keys) + 2
    assert not any(int(entry.get("lease", 0)) for entry in copied.values())


def test_what_lies_beside_etcd(k3s: K3s) -> None:
    prepare(k3s)
    k3s.up()
    config = yaml.safe_load((k3s.db / "etcd/config").read_text())
    recorded = yaml.safe_load((RECORDING / "etcd-config.yaml").read_text())
    for named in (config, recorded):
        name = named.pop("name")
        named["initial-cluster"] = named["initial-cluster"].replace(name, "NAME")
    text = yaml.safe_dump(config).replace(str(k3s.data_dir), "/var/lib/rancher/k3s")
    assert yaml.safe_load(text) == recorded
    assert (k3s.db / "etcd/name").stat().st_mode & 0o777 == 0o600
    status, answer = k3s.http("/db/info", user="server", certificate=None)
    assert status == 200 and answer["members"][0]["peerURLs"] == ["https://10.99.0.11:2380"]
    assert k3s.http("/v1-k3s/server-bootstrap", user="server", certificate=None)[0] == 200


@pytest.mark.parametrize("version", NEW)
def test_the_gateway_moved_to_2382(k3s: K3s, version: str) -> None:
    prepare(k3s, version)
    k3s.up()
    config = yaml.safe_load((k3s.db / "etcd/config").read_text())
    assert config["listen-client-http-urls"] == "https://127.0.0.1:2382"
    assert int(k3s.gateway("maintenance/status", {}, port=2382)["header"]["revision"]) > 1
    with pytest.raises((OSError, Exception)) as raised:
        k3s.gateway("maintenance/status", {}, port=2379)
    assert "AssertionError" not in raised.typename
    done = k3s.run("etcd-snapshot", "save", "--data-dir", str(k3s.data_dir))  # gRPC on 2379
    assert done.returncode == 0, done.stderr
    assert [p.name.startswith("on-demand-n1-") for p in (k3s.db / "snapshots").iterdir()] == [True]
    assert k3s.http("/db/info", host="127.0.0.1", certificate=None)[0] == 200
    assert k3s.http("/db/info", certificate=None)[0] == 401


@pytest.mark.parametrize("version", ["v1.22.2+k3s1", "v1.34.1+k3s1"])
def test_the_wal_directory_alone_decides(k3s: K3s, version: str) -> None:
    prepare(k3s, version)
    k3s.up()
    k3s.stop()
    k3s.cluster_init(False)
    k3s.up()
    assert "already complete" in k3s.log and "Migrating" not in k3s.log
    k3s.stop()
    (k3s.db / "etcd").rename(k3s.directory / "etcd-aside")
    (k3s.db / "state.db.migrated").rename(k3s.db / "state.db")
    k3s.up()
    assert "already complete and initialized" not in k3s.log
    assert k3s.http("/api/v1/namespaces/shop/configmaps/late")[0] == 200
    assert not (k3s.db / "etcd/member").exists()


@pytest.mark.parametrize("how", ["argument", "environment", "config.yaml", "config.yaml.d", "K3S_CONFIG_FILE"])
def test_cluster_init_is_honoured_from_any_place(k3s: K3s, how: str) -> None:
    prepare(k3s)
    k3s.cluster_init(False)
    arguments, env = [], {}
    if how == "argument":
        arguments = ["--cluster-init"]
    elif how == "environment":
        env = {"K3S_CLUSTER_INIT": "true"}
    elif how == "K3S_CONFIG_FILE":
        other = k3s.directory / "other.yaml"
        other.write_text(k3s.config.read_text() + "cluster-init: true\n")
        env = {"K3S_CONFIG_FILE": str(other)}
    elif how == "config.yaml.d":
        k3s.cluster_init()
    else:
        k3s.configure(**{"cluster-init": True})
    k3s.up(*arguments, env=env)
    assert (k3s.db / "state.db.migrated").exists()


def test_a_datastore_endpoint_wins_over_cluster_init(k3s: K3s) -> None:
    prepare(k3s)
    k3s.configure(**{"datastore-endpoint": "mysql://somewhere"})
    k3s.up()
    assert (k3s.db / "state.db").exists() and not (k3s.db / "etcd").exists()
    assert k3s.http("/api/v1/namespaces/shop/configmaps")[1]["items"] == []


@pytest.mark.parametrize("version", ["v1.22.2+k3s1", "v1.34.1+k3s1"])
def test_an_etcd_only_start_has_no_writer(k3s: K3s, version: str) -> None:
    """ "Seen" 6."""
    prepare(k3s, version, heartbeat_interval=0.02, controller_tick=0.02)
    k3s.up()
    k3s.stop()
    flags = ("apiserver", "controller-manager", "scheduler", "agent")
    k3s.up(*[f"--disable-{flag}" for flag in flags])
    revision = k3s.revision(port(version))
    with pytest.raises(ConnectionRefusedError):
        k3s.http("/readyz", port=6444, host="127.0.0.1")
    assert k3s.http("/api/v1/nodes")[0] == 503
    with pytest.raises(AssertionError, match="in vain"):
        wait_for("a write", lambda: k3s.revision(port(version)) != revision, patience=1)


@pytest.mark.parametrize("version", ["v1.22.2+k3s1", "v1.34.1+k3s1"])
def test_an_etcd_only_start_beside_a_living_sqlite(k3s: K3s, tmp_path: Path, version: str) -> None:
    """ "Seen" 15: the stage of a staged migration."""
    k3s.settings(version=version, seed=SEED)
    k3s.up()
    stage = K3s(tmp_path / "stage")
    stage.server.mkdir(parents=True)
    for name in ("tls", "cred"):
        shutil.copytree(k3s.server / name, stage.server / name)  # copy2: times are kept
    shutil.copy2(k3s.server / "token", stage.server / "token")
    stage.settings(version=version)
    flags = [f"--disable-{flag}" for flag in ("apiserver", "controller-manager", "scheduler", "agent")]
    try:
        stage.up("--cluster-init", "--https-listen-port", "7443", "--token-file", str(k3s.server / "token"), *flags)
        assert stage.etcd_keys(port=port(version)) == {}
        assert k3s.http("/readyz") == (200, "ok")
        assert stage.stop() == 0
    finally:
        stage.clean()
    k3s.stop()
    shutil.rmtree(k3s.db / "etcd", ignore_errors=True)
    (stage.db / "etcd").rename(k3s.db / "etcd")
    k3s.up()
    assert "already complete and initialized" in k3s.log


def test_nothing_of_etcd_outlives_a_sigkill(k3s: K3s) -> None:
    prepare(k3s)
    k3s.up()
    k3s.kill()  # waits for the end of etcd
    k3s.up()
    assert k3s.http("/api/v1/namespaces/shop/configmaps/late")[0] == 200


def test_files_newer_than_the_datastore(k3s: K3s) -> None:
    """M7: why a backup must keep the times of tls and cred."""
    prepare(k3s, "v1.34.1+k3s1")
    k3s.up()
    k3s.stop()
    ca = k3s.server / "tls/request-header-ca.crt"
    original = ca.read_text()
    ca.write_text(original + "\n")
    os.utime(ca, (time.time() + 60, time.time() + 60))
    k3s.start()
    assert k3s.wait_end() == 1
    assert f"{ca} newer than datastore and could cause a cluster outage" in k3s.messages
    ca.unlink()
    k3s.up()
    assert ca.read_text() == original


def test_another_token_is_refused(k3s: K3s) -> None:
    """M8."""
    k3s.up()
    k3s.stop()
    k3s.start("--token", "another")
    assert k3s.wait_end() == 1
    assert "bootstrap data already found and encrypted with different token" in k3s.messages


def test_a_changed_address_loops_in_activating(k3s: K3s) -> None:
    prepare(k3s)
    k3s.up()
    k3s.stop()
    k3s.configure(**{"node-ip": "127.0.0.1"})
    k3s.start()
    k3s.wait_line("is a not a member of the etcd cluster")
    assert "up and running" not in k3s.log
