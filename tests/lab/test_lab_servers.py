"""What the lab says of a server is so: here k3s is moved to etcd by hand, without the agent."""

from __future__ import annotations

import contextlib
import shutil
import zipapp
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.lab.datastore import VOLATILE, assert_same, differences
from tests.lab.lab import CHECKOUT, Lab
from tests.lab.node import AGENT, K3S, SERVER, Node
from tests.lab.servers import make_server
from tests.lab.system import LabError

STANDIN = CHECKOUT / "tests/standin"
DROP_IN = "/etc/rancher/k3s/config.yaml.d/by-hand.yaml"
CHANGING = (*VOLATILE, "/registry/minions/")


def migrate_by_hand(node: Node) -> None:
    """What k3s's documentation says, by drop-in and restart (k3s-facts, "Seen" 4)."""
    node.write(DROP_IN, "cluster-init: true\n")
    node.systemctl("restart", K3S)
    node.wait_for(lambda: "etcd" in node.roles(), what="the Node has the etcd role")


def test_a_server_comes_up_on_sqlite(server: Node) -> None:
    assert server.roles() >= {"control-plane"} and "etcd" not in server.roles()
    assert server.kubectl("/healthz").status == 200
    assert server.kubectl("/nothing/here").status == 404
    keys = server.kine_live()
    assert "/registry/minions/n1" in keys
    unit = server.show(K3S, "Type", "KillMode", "Restart", "Delegate", "TimeoutStartUSec", "FragmentPath")
    assert unit == {
        "Type": "notify", "KillMode": "process", "Restart": "always", "Delegate": "yes",
        "TimeoutStartUSec": "infinity", "FragmentPath": "/etc/systemd/system/k3s.service",
    }  # fmt: skip


def test_the_seed_lies_in_the_wal(new_node: Callable[[str], Node]) -> None:
    node = new_node("n1")
    if node.lab.k3s_binary:
        pytest.skip("a real k3s makes its datastore itself")
    keys = node.k3s_seed(rows=100)
    seeded = [key for key in keys if key.startswith("/registry/configmaps/seeded/")]
    assert len(seeded) == 90, "each tenth is deleted again"
    assert not keys.keys() & {"/registry/configmaps/seeded/seed-00099"}
    alone = node.kine_live(wal=False)
    assert not alone.keys() & set(seeded), "the added rows stand in the main file"
    assert len(alone) < len(keys)
    before = node.tree(f"{SERVER}/db")
    assert node.kine_live() == keys
    assert node.tree(f"{SERVER}/db") == before, "looking at the datastore changed it"


def test_moved_to_etcd_by_hand_every_key_is_seen(server: Node) -> None:
    before = server.kine_live()
    server.create_config_map("written-late", text="just before the move")
    assert server.kine_live().keys() - before.keys() == {"/registry/configmaps/default/written-late"}
    before = server.kine_live()
    migrate_by_hand(server)
    after = server.etcd_live()
    assert_same(before, after, ignore=CHANGING)
    assert server.exists(f"{SERVER}/db/state.db.migrated") and not server.exists(f"{SERVER}/db/state.db")
    revision = server.etcd_revision()
    server.create_config_map("written-later")
    assert server.etcd_revision() > revision
    key = "/registry/configmaps/default/written-later"
    assert key in server.etcd_live() and key not in server.etcd_live(revision=revision)
    assert any("Migrating etcd key" in line for line in server.messages(K3S))


def test_the_comparison_finds_a_key_that_was_left_out_and_one_that_was_altered(new_server: Callable[..., Node]) -> None:
    missing, altered = (f"/registry/configmaps/seeded/seed-{number:05}" for number in (17, 23))
    server = new_server(rows=50, faults={"skip_keys": [missing], "alter_keys": [altered]})
    before = server.kine_live()
    migrate_by_hand(server)
    lines = differences(before, server.etcd_live(), ignore=CHANGING)
    assert [line.partition(" (")[0] for line in lines] == [f"missing: {missing}", f"altered: {altered}"]
    with pytest.raises(AssertionError, match="2 of"):
        assert_same(before, server.etcd_live(), ignore=CHANGING)


def test_the_agent_answers_by_socket_and_by_command(server: Node) -> None:
    answer = server.api("GET", "/v1/status")
    assert answer.status == 200 and answer.headers["content-type"].startswith("application/json")
    assert answer.json["node"]["datastore"] == "sqlite"
    assert server.api("GET", "/v1/operations/nothing-of-the-kind").status == 404
    assert server.ctl("status").returncode == 0
    assert server.ctl("no-such-command").returncode == 2


def test_a_killed_agent_comes_back_and_a_lost_one_does_not(server: Node) -> None:
    pid = server.show(AGENT, "MainPID")["MainPID"]
    server.kill_agent()
    server.wait_for(lambda: server.show(AGENT, "MainPID")["MainPID"] not in ("0", pid), what="the agent is back")
    server.wait_for_agent()
    server.lose_agent()
    server.wait_for(lambda: not server.active(AGENT), what="the agent is gone")
    assert server.show(AGENT, "LoadState")["LoadState"] == "not-found"
    with pytest.raises(LabError):
        server.api("GET", "/v1/status")
    assert server.active(K3S)


def test_a_server_killed_whole_boots_into_k3s_and_agent_again(server: Node) -> None:
    server.create_config_map("before-the-fall")
    before = server.kine_live()
    server.reboot_hard()
    server.wait_for_k3s()
    server.wait_for_agent()
    assert_same(before, server.kine_live(), ignore=CHANGING)


@pytest.fixture
def one_file(tmp_path: Path) -> Path:
    """A k3s of one file, as the real one is: the stand-in packed up."""
    sources = tmp_path / "sources"
    shutil.copytree(STANDIN / "k3s_standin", sources / "k3s_standin")
    shutil.copyfile(STANDIN / "k3s", sources / "__main__.py")
    zipapp.create_archive(sources, tmp_path / "k3s", interpreter="/usr/bin/python3")
    return tmp_path / "k3s"


def test_a_k3s_of_ones_own_gets_what_a_real_one_needs(one_file: Path) -> None:
    with contextlib.closing(Lab(k3s_binary=one_file)) as lab:
        server = make_server(lab.node("n1"), rows=3)
        assert server.path("/usr/local/bin/k3s").read_bytes() == one_file.read_bytes()
        names = {f"/registry/configmaps/default/seed-{number:05}" for number in range(3)}
        assert server.kine_live("/registry/configmaps/default/").keys() == names
        # What its kubelet and containerd want of the machine.
        groups = server.exec(["findmnt", "--noheadings", "--output=TARGET", "--types=cgroup,cgroup2"]).stdout.split()
        assert groups
        for group in groups:
            server.exec(["sh", "-ec", 'mkdir "$1/lab-probe"; rmdir "$1/lab-probe"', "sh", group])
        server.exec(["sh", "-ec", "test -c /dev/kmsg; cat /proc/sys/vm/panic_on_oom >/proc/sys/vm/panic_on_oom"])
        kind = server.exec(["findmnt", "--noheadings", "--output=FSTYPE", "--target=/var/lib/rancher"]).stdout.strip()
        assert kind not in ("overlay", "tmpfs")
