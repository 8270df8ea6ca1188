"""What tests of reboots share: how a node is cut off at a chosen point, and the witness of k3s's starts."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tests.lab.halting import halt_at, halt_no_more, wait_until_halted
from tests.lab.node import K3S, Node
from tests.lab.scenarios import DB, DONE, begin, configuration, look, operate, record, records, wait_for_copy
from tests.lab.test_rollback import Migrated

OPTIONS = {"rows": 60, "agent": {"stability_window": "1s"}}
IN_THE_COPY = "in the copy"
REFUSAL = "refusing to start k3s on a half-copied datastore"

WITNESS = "/usr/lib/systemd/system/k3s.service.d/zzz-lab-witness.conf"
"""systemd runs the commands of drop-ins in the order of their names: this one only when the gate has let k3s pass."""
STARTS = "/var/log/lab-k3s-starts"


def witnessed(node: Node) -> Node:
    command = f"cd {DB} && echo $$(ls -d state.db etcd/member/wal 2>/dev/null) >>{STARTS}"
    node.write(WITNESS, f"[Service]\nExecStartPre=/bin/sh -c '{command}'\n")
    node.systemctl("daemon-reload")
    return node


def whole_at_every_start(node: Node) -> None:
    """Each start that the gate let through was on exactly one datastore, with its files in place."""
    starts = node.read(STARTS).splitlines()
    assert starts and set(starts) <= {"state.db", "etcd/member/wal"}, starts


def writes_to(node: Node, live: Callable[[], Mapping[str, bytes]]) -> None:
    """k3s writes to the datastore that lies there, not to files that were moved away from under it."""
    name = f"probe-{len(records(node))}"
    node.create_config_map(name)
    assert f"/registry/configmaps/default/{name}" in live(), "k3s serves from files that are not in place any more"
    assert node.kubectl(f"/api/v1/namespaces/default/configmaps/{name}", "DELETE").status == 200


def reach(node: Node, point: str, kind: str = "migrate", **body: object) -> str:
    """Begin an operation and bring it to a point, where the node is killed whole; the operation's id."""
    if point == IN_THE_COPY:
        node.standin(faults={"hang_at_key": 200})
        operation = begin(node, kind, **body)
        wait_for_copy(node)
        node.wait_for(lambda: any("Migrating etcd key" in line for line in node.messages(K3S)), what="keys are copied")
    else:
        halt_at(node, point)
        operation = begin(node, kind, **body)
        wait_until_halted(node, point)
    cut(node)
    node.standin()
    return operation


def cut(node: Node) -> None:
    """The node is gone, at a moment where the record says that the operation has not ended."""
    found = record(node)
    assert found["phase"] != "finished", "the cut came too late"
    node.kill()
    halt_no_more(node)


def migrated(node: Node) -> Migrated:
    before = look(node)
    code, migration = operate(node, "migrate")
    assert code == DONE, migration
    node.create_config_map("made-after", text="lost by a rollback that discards")
    path = "/api/v1/namespaces/seeded/configmaps/seed-00007"
    assert node.kubectl(path, "PATCH", {"data": {"content": "changed after the migration"}}).status == 200
    revision = node.etcd_revision()
    return Migrated(node, before, migration, revision, node.etcd_live(revision=revision), configuration(node))
