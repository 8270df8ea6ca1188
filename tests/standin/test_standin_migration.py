"""The native conversion of the stand-in, undisturbed and with each fault."""

from __future__ import annotations

import os
import time
from typing import Any

import pytest
import yaml

from tests.standin.harness import RECORDING, K3s, wait_for

SEED = str(RECORDING / "sqlite")
KEYS = 341
"""The recording's 340 and one written before the conversion."""
NEW = ("v1.34.1+k3s1", "v1.35.1+k3s1")
ALL = ("v1.22.2+k3s1", "v1.22.4+k3s1", *NEW)


def port(version: str) -> int:
    return 2382 if version in NEW else 2379


def prepare(k3s: K3s, version: str = "v1.22.2+k3s1", *, faults: dict[str, Any] | None = None, **speed: Any) -> None:
    """A node that ran on SQLite, was stopped, and will be converted by its next start."""
    k3s.set(version=version, seed=SEED)
    k3s.up()
    body = {"metadata": {"name": "late"}, "data": {"only": "in the WAL"}}
    assert k3s.http("/api/v1/namespaces/shop/configmaps", method="POST", body=body)[0] == 201
    k3s.stop()
    assert len(k3s.sqlite_rows()) == KEYS
    k3s.cluster_init()
    k3s.set(version=version, faults=faults or {}, speed=speed)


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
    k3s.set(version=version)
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
def test_killed_in_the_copy_then_taken_for_whole(k3s: K3s, version: str) -> None:
    """ "Seen" 1: the trap the project exists for."""
    prepare(k3s, version, faults={"die_after_keys": 100, "die_once": True})
    before = k3s.sqlite_rows()
    k3s.start()
    assert k3s.wait_end() == -9
    assert (k3s.db / "etcd/member/wal").is_dir() and (k3s.db / "state.db").exists()
    assert len(k3s.migrated_keys) == 100
    k3s.up()
    assert "Managed etcd cluster bootstrap already complete and initialized" in k3s.log
    assert not k3s.migrated_keys
    wait_for("the etcd role", lambda: "etcd" in k3s.roles)
    kept = k3s.etcd_keys(port=port(version))
    assert set(list(before)[:100]) <= set(kept)
    assert "/registry/configmaps/shop/late" not in kept
    assert k3s.http("/readyz") == (200, "ok")
    assert (k3s.db / "state.db").exists() and not (k3s.db / "state.db.migrated").exists()
    assert k3s.etcd_keys("/bootstrap/", port=port(version))  # saved on this start: no proof either
    assert k3s.sqlite_rows() == before


@pytest.mark.parametrize(
    ("version", "words"),
    [
        ("v1.22.4+k3s1", "failed to normalize token; must be in format K10<CA-HASH>::<USERNAME>:<PASSWORD>"),
        ("v1.35.1+k3s1", "no bootstrap data found in datastore"),
        ("v1.34.3+k3s3", "no bootstrap data found in datastore"),
    ],
)
@pytest.mark.parametrize("faults", [{"die_after_keys": 100, "die_once": True}, {"die_at": "after-rename"}])
def test_without_bootstrap_key_it_loops(k3s: K3s, version: str, words: str, faults: dict[str, Any]) -> None:
    prepare(k3s, version, faults=faults)
    k3s.start()
    assert k3s.wait_end() == -9
    for _ in range(2):
        k3s.start()
        assert k3s.wait_end() == 1
        (last,) = [line for line in k3s.messages.splitlines() if "level=fatal" in line]
        assert words in last
    assert (k3s.db / "tmp-etcd").exists() == (version == "v1.22.4+k3s1")


def test_die_once_dies_once_and_die_always_always(k3s: K3s) -> None:
    prepare(k3s, faults={"die_at": "wal-created"})
    for _ in range(2):
        k3s.start()
        wait_for("its end", lambda: k3s.process is not None and k3s.process.poll() is not None)
        assert k3s.wait_end() == -9
        assert not k3s.migrated_keys
        (k3s.db / "etcd").rename(k3s.directory / f"old.{k3s.starts}")
    k3s.set(faults={"die_at": "before-copy", "once": True})
    k3s.start()
    assert k3s.wait_end() == -9
    k3s.up()
    assert k3s.http("/api/v1/namespaces/shop/configmaps")[1]["items"] == []


@pytest.mark.parametrize("faults", [{"hang_at": "before-copy"}, {"hang_at_key": 50}, {"hang_at": "after-copy"}])
def test_hanging_in_the_copy(k3s: K3s, faults: dict[str, Any]) -> None:
    prepare(k3s, faults=faults)
    k3s.start()
    expected = {"before-copy": 0, "after-copy": KEYS}.get(faults.get("hang_at", ""), 49)
    k3s.wait_line("Migrating content")
    wait_for("the hang", lambda: len(k3s.migrated_keys) == expected and k3s.etcd_keys_or_none(expected))
    assert k3s.http("/ping", certificate=None) == (200, "pong")
    assert k3s.http("/api/v1/nodes")[0] == 503
    status, answer = k3s.http("/db/info", user="server", certificate=None)
    assert status == 200 and answer["members"][0]["name"].startswith("n1-")
    assert (k3s.db / "state.db").exists()
    assert k3s.stop() == 0


def test_a_key_left_out_and_a_value_altered_look_like_success(k3s: K3s) -> None:
    left_out, altered = "/registry/configmaps/shop/order-9", "/registry/configmaps/shop/late"
    extra = "/registry/configmaps/shop/nobody"
    prepare(k3s, faults={"skip_keys": [left_out], "alter_keys": [altered], "extra_keys": [extra], "skip_key_number": 7})
    before = k3s.sqlite_rows()
    k3s.up()
    after = k3s.etcd_at_end_of_copy()
    assert set(before) - set(after) == {left_out, list(before)[6]}
    assert set(after) - set(before) == {extra}
    assert [key for key in before if key in after and before[key] != after[key]] == [altered]
    assert (k3s.db / "state.db.migrated").exists()
    wait_for("the etcd role", lambda: "etcd" in k3s.roles)


def test_renamed_wrongly_or_not_at_all(k3s: K3s) -> None:
    prepare(k3s, faults={"no_rename": True})
    inode = (k3s.db / "state.db").stat().st_ino
    k3s.up()
    assert (k3s.db / "state.db").stat().st_ino == inode
    k3s.stop()
    (k3s.db / "etcd").rename(k3s.directory / "old")
    k3s.set(faults={"new_inode": True})
    k3s.up()
    assert not (k3s.db / "state.db").exists()
    assert (k3s.db / "state.db.migrated").stat().st_ino != inode


def test_the_role_may_never_appear(k3s: K3s) -> None:
    prepare(k3s, faults={"no_role": True}, role_delay=0.0, controller_tick=0.02, heartbeat_interval=0.02)
    k3s.up()
    revision = int(k3s.gateway("maintenance/status", {})["header"]["revision"])
    wait_for("ten passes of the controllers", lambda: k3s.revision() > revision + 20)
    assert k3s.roles == {"control-plane", "master"}


def test_crash_loop_after_ready(k3s: K3s) -> None:
    prepare(k3s, faults={"crash_after_ready": 0.2})
    k3s.start()
    assert k3s.wait_end() == 1
    assert "k3s is up and running" in k3s.log
    k3s.start()
    assert k3s.wait_end() == 1
    assert "already complete" in k3s.log


def test_no_space_is_etcds_own(k3s: K3s) -> None:
    prepare(k3s, faults={"quota_backend_bytes": 200_000})
    k3s.start()
    assert k3s.wait_end() == 1
    (last,) = [line for line in k3s.messages.splitlines() if "level=fatal" in line]
    assert "failed to migrate content from sqlite to etcd: " in last and "database space exceeded" in last
    assert (k3s.db / "state.db").exists() and 0 < len(k3s.migrated_keys) < KEYS
    k3s.set()
    k3s.start()  # as 1.22.2 the alarm stays, so that not even the bootstrap key can be saved
    wait_for("the alarm", lambda: k3s.alarms_or_none() == ["NOSPACE"])


def test_no_bootstrap_key(k3s: K3s) -> None:
    prepare(k3s, faults={"no_bootstrap_key": True})
    k3s.up()
    assert k3s.etcd_keys("/bootstrap/") == {}


def test_a_slow_put_can_be_watched(k3s: K3s) -> None:
    prepare(k3s, put_delay=0.01)
    k3s.start()
    seen = wait_for("some keys", lambda: len(k3s.migrated_keys))
    assert 0 < seen < KEYS
    assert k3s.stop() == 0
    assert (k3s.db / "state.db").exists()


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


@pytest.mark.parametrize("how", ["argument", "environment", "config.yaml", "K3S_CONFIG_FILE"])
def test_cluster_init_is_honoured_from_any_place(k3s: K3s, how: str) -> None:
    prepare(k3s)
    k3s.cluster_init(False)
    arguments, env = [], {}
    if how == "argument":
        arguments = ["--cluster-init"]
    elif how == "environment":
        env = {"K3S_CLUSTER_INIT": "true"}
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
