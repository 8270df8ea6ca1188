"""What scenarios share: what a node was before, and what must be true of it afterwards.

Everything is read without the agent's code: files with stat and sqlite3, etcd with etcdctl, the API server with curl.

What k3s writes by itself while it runs is told apart by key: with the stand-in these are its two leases and its own
Node, and every other key has to be equal, name and value. On SQLite the comparison is sharper still, row by row: kine
only ever adds rows, so each row there was must be there with every column, those that stood only in the WAL too, and a
row that came since must be of one of k3s's own keys.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import sqlite3
import tempfile
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import yaml

from tests.lab import datastore
from tests.lab.datastore import VOLATILE, Keys, assert_same
from tests.lab.lab import Lab
from tests.lab.node import AGENT, K3S, SERVER, STANDIN_CONFIG, Node
from tests.lab.servers import make_server

DB = f"{SERVER}/db"
MEMBER_WAL = f"{DB}/etcd/member/wal"
STATE = "/var/lib/k3s-ha-agent"
QUARANTINE = "/var/lib/rancher/k3s/k3s-ha-agent/quarantine"
GATE = "/etc/systemd/system/k3s.service.d/zz-k3s-ha-agent-gate.conf"
DROP_IN = "/etc/rancher/k3s/config.yaml.d/zz-k3s-ha-agent.yaml"
RESCUE_TIMER = "k3s-ha-agent-rescue.timer"
RESCUE = "k3s-ha-agent-rescue.service"
SEEDED = "/registry/configmaps/seeded/"

DONE, ROLLED_BACK, ROLLBACK_FAILED, REFUSED, CONFLICT = 0, 3, 4, 5, 6
"""Exit codes of k3s-ha-agentctl."""

EVIDENCE_OF_MIGRATE = {
    "copy-finished", "no-restart", "bootstrap-key", "data-equal", "no-alarms", "member-is-voter", "api-ready",
    "etcd-role", "stable",
}  # fmt: skip
"""All a migration has to prove (docs/architecture.md)."""

Rows = dict[int, tuple[object, ...]]


# --- before ------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Before:
    """A server on SQLite as it was before an operation."""

    rows: Rows
    """The whole table kine, WAL included, by id; but the mark of the last compaction, which kine changes in place."""
    keys: Keys
    """The live keys below /registry/."""
    configuration: Mapping[str, str]
    """k3s's configuration and systemd's units: every file with its content, mode, owner and mtime."""

    @property
    def seeded(self) -> int:
        return sum(key.startswith(SEEDED) for key in self.keys)


def look(node: Node) -> Before:
    """Take everything that is compared later; the node runs on SQLite."""
    assert not node.exists(MEMBER_WAL)
    return Before(kine_rows(node), node.kine_live(), configuration(node))


def kine_rows(node: Node, state_db: str = f"{DB}/state.db") -> Rows:
    """Every row of a kine database with its WAL, read from a copy of both files."""
    with tempfile.TemporaryDirectory() as directory:
        copy = Path(directory) / "state.db"
        datastore._copy_at_rest(node.path(state_db), copy)
        with closing(sqlite3.connect(copy)) as database:
            return {row[0]: row for row in database.execute("SELECT * FROM kine WHERE name <> 'compact_rev_key'")}


def configuration(node: Node) -> dict[str, str]:
    """k3s's configuration and systemd's units, but what ``sabotage`` adds to them and whether the agent is enabled."""
    ours = [FAULTS, "*.wants/k3s-ha-agent.service"]
    return node.tree("/etc/rancher", "/etc/systemd/system", "/etc/default", exclude=ours)


def own_key(node: Node, key: str) -> bool:
    """Whether k3s writes this key by itself."""
    if key.startswith(VOLATILE) or key == f"/registry/minions/{node.name}":
        return True
    # A real k3s also keeps its add-ons, CRDs, endpoints … up to date; what the tests wrote are ConfigMaps.
    return node.lab.k3s_binary is not None and not key.startswith("/registry/configmaps/default/")


def others(node: Node, keys: Mapping[str, bytes]) -> Keys:
    """The keys that only users write."""
    return {key: value for key, value in keys.items() if not own_key(node, key)}


# --- afterwards --------------------------------------------------------------------------------


def on_sqlite_as_before(node: Node, before: Before) -> None:
    """k3s runs on the very SQLite it ran on, row for row, with the configuration it had, and nothing is left behind."""
    node.wait_for_k3s()
    assert node.exists(f"{DB}/state.db") and not node.exists(MEMBER_WAL) and not node.exists(f"{DB}/state.db.migrated")
    rows = kine_rows(node)
    missing = [row[:2] for number, row in before.rows.items() if rows.get(number) != row]
    assert not missing, f"{len(missing)} of {len(before.rows)} rows are gone or altered, e.g. {missing[:5]}"
    newer = {str(row[1]) for number, row in rows.items() if number not in before.rows}
    assert not {key for key in newer if key.startswith("/registry/") and not own_key(node, key)}
    assert_same(others(node, before.keys), others(node, node.kine_live()))
    served_as_stored(node, before.keys)
    assert "etcd" not in node.roles()
    assert configuration(node) == before.configuration
    nothing_left_behind(node)


def on_etcd_with_all(node: Node, before: Before, operation: Mapping[str, Any]) -> None:
    """k3s runs on an etcd that got every key SQLite held when k3s stopped, and nothing is left behind.

    etcd is read at the revision at which a copy of all keys, one Put each, ends: there it must equal k3s's own SQLite
    files, which lie in the quarantine, exactly; and now it must equal what was there before the operation.
    """
    node.wait_for_k3s()
    for name in ("state.db", "state.db.migrated", "state.db-wal", "state.db-shm"):
        assert not node.exists(f"{DB}/{name}"), name
    stopped = retired_sqlite(node, operation)
    assert_same(stopped, node.etcd_live(revision=1 + len(stopped)))
    assert_same(others(node, before.keys), others(node, stopped))
    assert_same(others(node, before.keys), others(node, node.etcd_live()))
    assert len(node.etcd_live("/bootstrap/")) == 1
    served_as_stored(node, before.keys)
    assert "etcd" in node.roles()
    drop_in = [path for path in configuration(node) if path not in before.configuration]
    assert drop_in == [str(Path(DROP_IN).parent), DROP_IN]
    assert "cluster-init: true" in node.read(DROP_IN).splitlines()
    nothing_left_behind(node)


def retired_sqlite(node: Node, operation: Mapping[str, Any]) -> Keys:
    """The live keys of the SQLite files k3s left, under their first names again so that the WAL counts."""
    quarantine = node.path(f"{QUARANTINE}/{operation['id']}")
    with tempfile.TemporaryDirectory() as directory:
        shutil.copyfile(quarantine / "state.db.migrated", f"{directory}/state.db")
        if (quarantine / "state.db-wal").exists():
            shutil.copyfile(quarantine / "state.db-wal", f"{directory}/state.db-wal")
        return datastore.kine_live(Path(directory) / "state.db")


def served_as_stored(node: Node, keys: Mapping[str, bytes]) -> None:
    """The API server serves exactly the ConfigMaps there were."""
    prefix = "/registry/configmaps/"
    items = node.kubectl("/api/v1/configmaps").json["items"]
    served = {f"{prefix}{item['metadata']['namespace']}/{item['metadata']['name']}" for item in items}
    assert served == {key for key in keys if key.startswith(prefix)}


def nothing_left_behind(node: Node) -> None:
    """No gate, no rescue, no temporary file, no lock, no unfinished record; k3s's unit as it was."""
    assert not node.exists(GATE)
    unit = node.show(K3S, "ActiveState", "Restart", "NeedDaemonReload", "DropInPaths")
    assert (unit["ActiveState"], unit["Restart"], unit["NeedDaemonReload"]) == ("active", "always", "no")
    assert "k3s-ha-agent" not in unit["DropInPaths"]
    assert node.show(RESCUE_TIMER, "ActiveState")["ActiveState"] == "inactive"
    assert node.show(RESCUE, "ActiveState")["ActiveState"] == "inactive"
    assert temporary_files(node) == []
    node.wait_for(lambda: node.exec(["flock", "--nonblock", f"{STATE}/lock", "true"], check=False).returncode == 0)
    for record in records(node):
        assert record["phase"] == "finished" and record["rescue"] == {}, record["id"]


def temporary_files(node: Node) -> list[str]:
    """Files that the agent, its durable writes or the rescue use on the way, wherever they write."""
    tops = (STATE, SERVER, "/etc/rancher", "/etc/systemd/system")
    inside = (path for top in tops for path in node.path(top).rglob("*"))
    return [str(p) for p in inside if p.suffix in (".tmp", ".rescue") or p.name.startswith(".state.db")
            if "member" not in p.parts]  # fmt: skip


def records(node: Node) -> list[dict[str, Any]]:
    """The durable records, oldest first, as they lie on disk."""
    found = [json.loads(path.read_text()) for path in node.path(f"{STATE}/operations").glob("*/record.json")]
    return sorted(found, key=lambda record: (record["created_at"], record["id"]))


def record(node: Node) -> dict[str, Any]:
    """The newest record on disk; empty when there is none yet. Quick, and needs no agent."""
    return next(reversed(records(node)), {})


def never_called_a_success(node: Node) -> None:
    """Neither a record nor a line of the agent or the rescue says that anything succeeded or was committed."""
    assert all(found["outcome"] != "succeeded" and not found["committed"] for found in records(node))
    for line in (*node.messages(AGENT), *node.messages(RESCUE)):
        assert "succeeded" not in line and "committed:" not in line, line


# --- asking for operations ------------------------------------------------------------------------


def operate(node: Node, *arguments: str) -> tuple[int, dict[str, Any]]:
    """Run an operation to its end with k3s-ha-agentctl: its exit code, and the operation or problem it printed."""
    done = node.ctl(*arguments, "--yes", "--output", "json")
    try:
        return done.returncode, json.loads(done.stdout)
    except ValueError:
        raise AssertionError(f"exit code {done.returncode}, no JSON:\n{done.stdout}\n{done.stderr}") from None


def begin(node: Node, kind: str = "migrate", **body: object) -> str:
    """Ask for an operation through the API and do not wait for it; its id."""
    answer = node.api("POST", f"/v1/{kind}", body)
    assert answer.status == 202, answer.text
    return str(answer.json["id"])


def wait_until_finished(node: Node, operation: str, timeout: float = 120.0) -> dict[str, Any]:
    """The operation once it has ended; the agent may be away meanwhile."""

    def finished() -> bool:
        return any(r["id"] == operation and r["phase"] == "finished" for r in records(node))

    node.wait_for(finished, timeout=timeout, what=f"{operation} has finished")
    node.wait_for_agent()
    found: dict[str, Any] = node.api("GET", f"/v1/operations/{operation}").json
    return found


def wait_for_step(node: Node, step: str, status: str = "doing", timeout: float = 60.0) -> None:
    """Until the durable record says that a step is there; polled quickly, so that something can be done *in* it."""

    def there() -> bool:
        return any(s["name"] == step and s["status"] == status for s in record(node).get("steps", ()))

    node.wait_for(there, timeout=timeout, poll=0.002, what=f"{step} is {status}")


def wait_for_copy(node: Node) -> None:
    """Until k3s has begun to copy: member/wal is there, state.db still has its name."""
    node.wait_for(lambda: node.exists(MEMBER_WAL), poll=0.01, what="the copy has begun")


# --- one server for several scenarios --------------------------------------------------------------


class SharedServer:
    """A server that scenarios use one after the other, made anew when one left it otherwise than it found it."""

    def __init__(self, lab: Lab, **options: Any) -> None:
        self._lab = lab
        self._options = options
        self._node: Node | None = None

    def ready(self) -> Node:
        """The server: k3s on SQLite without faults, k3s and agent ready, no operation unfinished."""
        if self._node is None:
            self._node = make_server(self._lab.node(), **self._options)
        elif not self._as_new(self._node):
            self._node.renew()
            make_server(self._node, **self._options)
        return self._node

    def _as_new(self, node: Node) -> bool:
        """Mend what can be mended; whether that was enough."""
        if not node.running or node.exists(MEMBER_WAL) or node.exists(GATE):
            return False
        if node.exists(FAULTS):
            node.standin(version=self._options.get("version", VERSION), speed=self._options.get("speed", {}))
            node.remove(str(Path(FAULTS).parent))
            node.systemctl("daemon-reload")
        settled = all(record["outcome"] == "rolled_back" for record in records(node))
        return settled and node.k3s_ready() and node.agent_ready()

    def close(self) -> None:
        if self._node is not None:
            self._node.destroy()


VERSION = "v1.22.2+k3s1"
FAULTS = "/etc/systemd/system/k3s.service.d/zz-lab-faults.conf"


def sabotage(node: Node, version: str = VERSION, speed: Mapping[str, object] | None = None, **faults: object) -> None:
    """From now on the stand-in has these faults whenever it is told to go to etcd, and none on SQLite."""
    for file, given in (("on-etcd", faults), ("on-sqlite", {})):
        text = yaml.safe_dump({"version": version, "speed": dict(speed or {}), "faults": given})
        node.write(f"/etc/k3s-standin/{file}.yaml", text)
    choose = f"if [ -e {DROP_IN} ]; then set on-etcd; else set on-sqlite; fi"
    command = f'{choose}; exec cp /etc/k3s-standin/"$1".yaml {STANDIN_CONFIG}'
    node.write(FAULTS, f"[Service]\nExecStartPre=/bin/sh -c '{command}'\n")
    node.systemctl("daemon-reload")
