"""Migrations that go wrong in every way the stand-in knows: each one is rolled back by itself, and nothing is lost."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.lab.halting import go_on, halt_at, wait_until_halted
from tests.lab.lab import Lab
from tests.lab.node import AGENT, K3S, Node
from tests.lab.scenarios import (
    DB,
    DONE,
    GATE,
    MEMBER_WAL,
    QUARANTINE,
    RESCUE,
    ROLLBACK_FAILED,
    ROLLED_BACK,
    SharedServer,
    begin,
    look,
    never_called_a_success,
    on_etcd_with_all,
    on_sqlite_as_before,
    operate,
    sabotage,
    wait_for_copy,
    wait_until_finished,
)

LEFT_OUT = "/registry/configmaps/seeded/seed-00042"
EXTRA = "/registry/configmaps/seeded/never-written"


@dataclasses.dataclass(frozen=True)
class Fault:
    faults: dict[str, Any]
    """Of the stand-in (tests/standin/README.md), in force while it goes to etcd."""
    evidence: str
    """What must be named as failed: a fact that could not be proven, or the step that did not end."""
    says: str
    """Part of the reason people read."""
    options: tuple[str, ...] = ("--timeout", "60s")


FAULTS = {
    "killed-before-the-copy": Fault({"die_at": "wal-created"}, "copy-finished", "state.db"),
    "killed-in-the-copy": Fault({"die_after_keys": 77}, "copy-finished", "state.db"),
    "killed-before-the-rename": Fault({"die_at": "after-copy"}, "copy-finished", "state.db"),
    "killed-after-the-rename": Fault({"die_at": "after-rename"}, "start-k3s", "ended"),
    "a-key-left-out": Fault({"skip_keys": [LEFT_OUT]}, "data-equal", LEFT_OUT),
    "the-last-key-left-out": Fault({"skip_key_number": 521}, "data-equal", "1 missing"),
    "a-value-altered": Fault({"alter_keys": [LEFT_OUT]}, "data-equal", LEFT_OUT),
    "a-key-too-many": Fault({"extra_keys": [EXTRA]}, "data-equal", EXTRA),
    "one-left-out-and-one-too-many": Fault({"skip_keys": [LEFT_OUT], "extra_keys": [EXTRA]}, "data-equal", "1 missing"),
    "no-rename": Fault({"no_rename": True}, "copy-finished", "old name"),
    "renamed-by-copying": Fault({"new_inode": True}, "copy-finished", "inode"),
    "no-bootstrap-key": Fault({"no_bootstrap_key": True}, "bootstrap-key", "bootstrap key"),
    "role-never-appears": Fault({"no_role": True}, "etcd-role", "etcd role"),
    "hangs-before-the-copy": Fault({"hang_at": "before-copy"}, "copy-finished", "deadline", ("--timeout", "6s")),
    "hangs-in-the-copy": Fault({"hang_at_key": 300}, "copy-finished", "deadline", ("--timeout", "6s")),
    "api-never-ready": Fault({"api_never_ready": True}, "start-k3s", "deadline", ("--timeout", "6s")),
    "api-hangs-after-ready": Fault({"api_hang_after_ready": True}, "api-ready", "API server"),
    "crashes-after-ready": Fault({"crash_after_ready": 1.5}, "", "k3s ended", ("--stability", "10s")),
    "out-of-etcd's-quota": Fault({"quota_backend_bytes": 200_000}, "copy-finished", "quota"),
}


@pytest.fixture(scope="module")
def shared(lab: Lab) -> Iterator[SharedServer]:
    if lab.k3s_binary:
        pytest.skip("needs the stand-in k3s: a real one has no faults to order")
    server = SharedServer(lab, agent={"role_timeout": "4s", "stability_window": "1s"})
    yield server
    server.close()


@pytest.fixture
def server(shared: SharedServer) -> Node:
    return shared.ready()


@pytest.mark.parametrize("name", FAULTS)
def test_rolled_back_by_itself(server: Node, name: str) -> None:
    fault = FAULTS[name]
    sabotage(server, **fault.faults)
    before = look(server)

    code, operation = operate(server, "migrate", *fault.options)

    assert (code, operation["outcome"], operation["committed"]) == (ROLLED_BACK, "rolled_back", False), operation
    assert operation["failed_evidence"], "the evidence that failed is not named"
    if fault.evidence:
        assert operation["failed_evidence"] == [fault.evidence], operation["reason"]
    found = [item for item in operation["evidence"] if item["name"] in operation["failed_evidence"] and not item["ok"]]
    assert fault.says in " ".join([operation["reason"], *(item["value"] for item in found)])
    on_sqlite_as_before(server, before)
    never_called_a_success(server)


def test_a_half_copy_is_not_started_by_hand(server: Node) -> None:
    """The copy dies while the agent cannot act, and somebody starts k3s: the gate stands, and says why."""
    server.create_config_map("in-the-wal-alone", text="written last")
    sabotage(server, speed={"put_delay": 0.005}, die_after_keys=200)
    before = look(server)
    assert "/registry/configmaps/default/in-the-wal-alone" in before.keys.keys() - server.kine_live(wal=False).keys()
    wal = server.path(f"{DB}/state.db-wal").stat().st_ino
    operation = begin(server)
    wait_for_copy(server)
    server.systemctl("kill", "--kill-who=main", "--signal=STOP", AGENT)
    server.wait_for(lambda: not server.active(K3S) and server.show(K3S, "MainPID")["MainPID"] == "0", poll=0.05)
    server.wait_for(lambda: server.show(K3S, "ActiveState")["ActiveState"] == "failed", what="systemd leaves it failed")

    for verb in ("start", "restart"):
        done = server.exec(["systemctl", verb, K3S], check=False)
        assert done.returncode != 0
        assert server.exists(MEMBER_WAL) and server.exists(f"{DB}/state.db")
        assert server.kubectl("/readyz", timeout=3.0).status == 0
    said = [line for line in server.messages(K3S) if "refusing to start k3s on a half-copied datastore" in line]
    assert len(said) == 2 and "systemctl start k3s-ha-agent-rescue.service" in said[0]
    assert server.show(K3S, "NRestarts")["NRestarts"] == "0"

    server.systemctl("kill", "--kill-who=main", "--signal=CONT", AGENT)
    ended = wait_until_finished(server, operation)
    assert (ended["outcome"], ended["failed_evidence"]) == ("rolled_back", ["copy-finished"])
    on_sqlite_as_before(server, before)
    # Beside the pre-image it would be read as newer than that ("ten facts" 6).
    assert server.path(f"{QUARANTINE}/{operation}/state.db-wal").stat().st_ino == wal, "the old WAL was left in place"
    never_called_a_success(server)


def test_what_is_written_until_the_very_stop_comes_back(new_server: Callable[..., Node]) -> None:
    """The copy of step 1 is made while k3s serves; what users write after it is in the sealed copy alone."""
    node = new_server("n2", rows=60, faults={"skip_key_number": 100}, agent={"stability_window": "1s"})
    halt_at(node, "after do save-pre-image")
    operation = begin(node)
    wait_until_halted(node, "after do save-pre-image")
    node.create_config_map("written-late", text="after the copy, before the stop")
    before = look(node)
    go_on(node)

    ended = wait_until_finished(node, operation)

    assert (ended["outcome"], ended["failed_evidence"]) == ("rolled_back", ["data-equal"])
    assert "/registry/configmaps/default/written-late" in before.keys
    on_sqlite_as_before(node, before)
    never_called_a_success(node)


def test_a_way_back_that_cannot_be_proven_is_said_aloud(new_server: Callable[..., Node]) -> None:
    """k3s starts neither on etcd nor on SQLite: nothing is called rolled back, and the gate stays closed."""
    server = new_server("n2", agent={"undo_timeout": "8s", "stability_window": "1s"})
    before = look(server)
    server.standin(faults={"exit_at": "before-ready"})

    code, operation = operate(server, "migrate")

    assert (code, operation["outcome"]) == (ROLLBACK_FAILED, "rollback_failed")
    assert server.exists(GATE) and not server.exists(MEMBER_WAL)
    assert "FAILED" in server.journal(AGENT)
    code, problem = operate(server, "migrate")
    assert (code, problem["code"], problem["operation"]) == (6, "conflict", operation["id"])

    # What the message says a person should do, once the cause is mended.
    server.standin()
    server.systemctl("start", RESCUE)
    settled = server.api("GET", f"/v1/operations/{operation['id']}").json
    assert (settled["outcome"], settled["finished_by"]) == ("rolled_back", "rescue")
    on_sqlite_as_before(server, before)
    never_called_a_success(server)
    code, operation = operate(server, "migrate")
    assert code == DONE
    on_etcd_with_all(server, before, operation)
