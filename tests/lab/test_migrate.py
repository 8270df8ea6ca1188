"""A healthy migration, as three releases of k3s do it: every key proven, and nothing else changed."""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable
from typing import Any

import pytest

from tests.lab.node import AGENT, K3S, SERVER, Node
from tests.lab.scenarios import (
    DONE,
    EVIDENCE_OF_MIGRATE,
    GATE,
    REFUSED,
    RESCUE,
    STATE,
    Before,
    begin,
    look,
    on_etcd_with_all,
    operate,
    others,
    records,
    retired_sqlite,
    wait_for_step,
)

NewServer = Callable[..., Node]
VERSIONS = ["v1.22.2+k3s1", "v1.34.1+k3s1", "v1.35.1+k3s1"]


@pytest.mark.parametrize("version", VERSIONS)
def test_healthy_migration(new_server: NewServer, version: str) -> None:
    node = new_server(version=version)
    node.create_config_map("made-before", text="by a user, through the API server")
    before = look(node)
    assert others(node, before.keys) != others(node, node.kine_live(wal=False)), "the WAL has nothing of its own"

    code, operation = operate(node, "migrate")

    assert (code, operation["outcome"], operation["committed"]) == (DONE, "succeeded", True), operation["reason"]
    assert {item["name"]: item["ok"] for item in operation["evidence"]} == dict.fromkeys(EVIDENCE_OF_MIGRATE, True)
    assert all(step["status"] == "done" for step in operation["steps"])
    on_etcd_with_all(node, before, operation)
    the_report_is_right(node, before, operation)
    the_snapshot_is_whole(node, operation)
    state = node.api("GET", "/v1/status").json["node"]
    assert (state["datastore"], state["gate_closed"], state["rescue_armed"]) == ("etcd", False, False)

    # The gate was what kept k3s from restarts; without it, and with our drop-in, they are harmless.
    node.systemctl("restart", K3S)
    on_etcd_with_all(node, before, operation)
    made = node.kubectl("/api/v1/namespaces/default/configmaps/made-before").json
    assert made["data"] == {"text": "by a user, through the API server"}


def the_report_is_right(node: Node, before: Before, operation: dict[str, Any]) -> None:
    report = operation["facts"]["report"]
    stopped = retired_sqlite(node, operation)
    assert report["live_keys"] == len(stopped) == len(before.keys)
    assert operation["facts"]["copy_revision"] == 1 + len(stopped)
    live = {row[1]: row for row in before.rows.values()}  # by id: the last row of a key is what it is
    assert report["leases_lost"] == sum(1 for key in before.keys if live[key][6])
    assert report["revision_before"] >= max(before.rows)
    assert operation["facts"]["copy_revision"] < report["revision_after"] <= node.etcd_revision()
    assert report["writes_since_copy"] == report["revision_after"] - operation["facts"]["copy_revision"]
    # systemd's own account of it, in whole milliseconds as the journal has it, against what the agent measured.
    assert report["downtime_seconds"] == pytest.approx(downtime(node), abs=1.0)


def downtime(node: Node) -> float:
    """Seconds from systemd's "Stopping k3s" to its "Started k3s", the last ones of this boot but the first start."""
    times = {}
    for line in node.journal(K3S).splitlines():
        said = re.match(r"(\S+) \S+ systemd\[1\]: (Stopping|Started) k3s", line)
        if said:
            times[said[2]] = datetime.datetime.fromisoformat(said[1])
    return (times["Started"] - times["Stopping"]).total_seconds()


def the_snapshot_is_whole(node: Node, operation: dict[str, Any]) -> None:
    """etcd itself reads the first snapshot, and counts the keys in it."""
    snapshot = f"{STATE}/backups/{operation['id']}/etcd-snapshot.db"
    status = node.etcdctl("snapshot", "status", snapshot, "--write-out=json").stdout
    count = int(re.search(r'"totalKey":(\d+)', status)[1])  # type: ignore[index]
    assert count >= operation["facts"]["report"]["live_keys"]


def test_a_data_dir_of_its_own_below_home(new_server: NewServer) -> None:
    """As packaging/config.yaml says it: ``data_dir`` and ``ReadWritePaths=``. /home is where there is room.

    The rescue needs to be told nothing.
    """
    server, elsewhere = new_server(speed={"put_delay": 0.003}), "/home/k3s"
    server.systemctl("stop", K3S)
    server.exec(["sh", "-ec", f"cp -a /var/lib/rancher/k3s {elsewhere} && rm -r /var/lib/rancher/k3s/server"])
    server.k3s_config(data_dir=elsewhere)
    server.systemctl("start", K3S)
    server.agent_settings(data_dir=elsewhere)
    server.systemctl("restart", AGENT)
    server.wait_for_agent()
    code, problem = operate(server, "migrate")
    refused = {item["name"]: item for item in problem["checks"] if item["status"] == "refused"}
    assert code == REFUSED and "writable" in refused, problem
    assert "ReadWritePaths" in refused["writable"]["remedy"]
    assert not {"datastore", "data-dir", "sqlite"} & set(refused), refused

    server.write(f"/etc/systemd/system/{AGENT}.d/data.conf", f"[Service]\nReadWritePaths={elsewhere}\n")
    server.systemctl("daemon-reload")
    server.systemctl("restart", AGENT)
    server.wait_for_agent()
    begin(server)
    wait_for_step(server, "start-k3s")
    server.systemctl("stop", AGENT)
    server.systemctl("start", RESCUE)
    (rescued,) = records(server)
    assert (rescued["outcome"], rescued["finished_by"]) == ("rolled_back", "rescue"), rescued
    assert server.exists(f"{elsewhere}/server/db/state.db")
    assert not server.exists(f"{elsewhere}/server/db/etcd/member/wal")

    server.systemctl("start", AGENT)
    server.wait_for_agent()
    code, operation = operate(server, "migrate")
    assert (code, operation["outcome"]) == (DONE, "succeeded"), operation
    assert {item["name"]: item["ok"] for item in operation["evidence"]} == dict.fromkeys(EVIDENCE_OF_MIGRATE, True)
    assert server.exists(f"{elsewhere}/server/db/etcd/member/wal")
    assert not server.exists(f"{elsewhere}/server/db/state.db")


def test_a_migration_asked_for_with_dry_run_changes_nothing(server: Node) -> None:
    tops = ("/etc", "/var/lib/rancher", STATE)
    volatile = [
        f"{SERVER}/db/state.db-wal",
        f"{SERVER}/db/state.db-shm",
        f"{STATE}/preflight.lock",
        f"{STATE}/audit.jsonl",
    ]
    before = server.tree(*tops, exclude=volatile)
    code, plan = operate(server, "migrate", "--dry-run")
    assert code == DONE
    assert not plan["would_be_refused"]
    assert [step["name"] for step in plan["steps"]][:5] == [
        "save-pre-image", "arm-rescue", "close-gate", "stop-k3s", "seal-pre-image",
    ]  # fmt: skip
    assert server.tree(*tops, exclude=volatile) == before
    assert not server.exists(GATE)


def test_what_the_agent_costs(server: Node, capsys: pytest.CaptureFixture[str]) -> None:
    """Its exposure is a promise; its memory and start time are printed to be looked at."""
    exposure = {}
    for unit in (AGENT, RESCUE):
        file = f"/usr/lib/systemd/system/{unit}"
        said = server.exec(["systemd-analyze", "security", "--offline=true", file], check=False)
        found = re.search(r"Overall exposure level for \S+ ([\d.]+)", said.stdout)
        assert found is not None, said.stdout
        exposure[unit] = float(found[1])
    assert max(exposure.values()) <= 2.5, exposure
    verified = server.exec(
        ["systemd-analyze", "verify", "--man=no", *(f"/usr/lib/systemd/system/{u}" for u in exposure)]
    )
    assert "k3s-ha-agent" not in verified.stderr, verified.stderr
    shown = server.show(AGENT, "MainPID", "InactiveExitTimestampMonotonic", "ActiveEnterTimestampMonotonic")
    status = server.exec(["cat", f"/proc/{shown['MainPID']}/status"]).stdout
    assert re.search(r"^Seccomp:\s+2$", status, re.M), "the sandbox of its unit does not hold"
    resident = int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) / 1024  # type: ignore[index]
    start = int(shown["ActiveEnterTimestampMonotonic"]) - int(shown["InactiveExitTimestampMonotonic"])
    with capsys.disabled():
        print(f"\nthe agent: {resident:.0f} MiB resident, ready after {start / 1e6:.2f} s, exposure {exposure[AGENT]}")
