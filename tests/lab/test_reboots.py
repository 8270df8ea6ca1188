"""The node killed whole in each step of an operation, on the way forward and on the way back, and booted again: with
the agent, without it, and with one that does not start.

k3s never comes up on a half-copied datastore, nor on none: a witness behind the gate writes down on what each start
that the gate let through would run. And in the end there is one datastore, whole, and nothing is left behind.

What a real power failure adds, the loss of what was not synced, is not shown here (README.md, docs/interruptions.md).
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from tests.lab.datastore import assert_same
from tests.lab.halting import DROP_IN as HALT
from tests.lab.halting import go_on, halt_at, halt_no_more, wait_until_halted
from tests.lab.lab import Lab
from tests.lab.node import AGENT, K3S, SERVER, Node
from tests.lab.scenarios import (
    DB,
    DONE,
    MEMBER_WAL,
    RESCUE,
    SharedServer,
    begin,
    configuration,
    kine_rows,
    look,
    never_called_a_success,
    on_etcd_with_all,
    on_sqlite_as_before,
    operate,
    others,
    record,
    records,
    wait_for_copy,
    wait_until_finished,
)
from tests.lab.servers import make_server
from tests.lab.test_rollback import Migrated, still_on_etcd

NewServer = Callable[..., Node]
OPTIONS = {"rows": 60, "agent": {"stability_window": "1s"}}
IN_THE_COPY = "in the copy"
REFUSAL = "refusing to start k3s on a half-copied datastore"

FORWARD = (
    "after do save-pre-image", "after do arm-rescue", "after do close-gate", "after do stop-k3s",
    "after do seal-pre-image", "after do enable-etcd", IN_THE_COPY, "after do start-k3s", "after do prove",
    "after do hold-still", "after do commit",
)  # fmt: skip
"""Each act of a migration done and not recorded as done, up to the commitment."""
COMMITTED = (
    "before do disarm-rescue", "after do disarm-rescue", "after do retire-sqlite", "after do open-gate",
    "after do first-snapshot", "after do drop-old-quarantine",
)  # fmt: skip
BACK = (
    "after undo prove", "after undo start-k3s", "after undo enable-etcd", "after undo seal-pre-image",
    "after undo stop-k3s", "after undo close-gate", "after undo arm-rescue", "after undo save-pre-image",
)  # fmt: skip
ROLLBACK = (
    "after do close-gate", "after do stop-k3s", "after do disable-etcd", "after do retire-etcd",
    "after do restore-sqlite", "after do start-k3s", "after do hold-still",
)  # fmt: skip

WITNESS = "/usr/lib/systemd/system/k3s.service.d/zzz-lab-witness.conf"
"""systemd runs the commands of drop-ins in the order of their names: this one only when the gate has let k3s pass."""
STARTS = "/var/log/lab-k3s-starts"


@pytest.fixture(scope="module")
def shared(lab: Lab) -> Iterator[SharedServer]:
    if lab.k3s_binary:
        pytest.skip("needs the stand-in k3s: a real one cannot be told to stand still in the copy")
    server = SharedServer(lab, **OPTIONS)
    yield server
    server.close()


@pytest.fixture
def server(shared: SharedServer) -> Node:
    return witnessed(shared.ready())


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


# --- with the agent ---------------------------------------------------------------------------------


@pytest.mark.parametrize("point", FORWARD)
def test_a_migration_is_cut_off(server: Node, point: str) -> None:
    before = look(server)
    operation = reach(server, point)
    assert not record(server)["committed"]

    server.boot()

    ended = wait_until_finished(server, operation)
    assert (ended["outcome"], ended["finished_by"]) == ("rolled_back", "agent"), ended["reason"]
    assert "cut off by a reboot" in ended["reason"]
    on_sqlite_as_before(server, before)
    writes_to(server, server.kine_live)
    never_called_a_success(server)
    whole_at_every_start(server)


@pytest.mark.parametrize("step", ["seal-pre-image", "enable-etcd"])
def test_k3s_is_up_before_the_agent_goes_back(server: Node, step: str) -> None:
    """At boot k3s is started as soon as the agent is READY. What it has done by the time the agent takes over, on
    SQLite or, where it was told to go to etcd, on a new etcd, is undone with k3s stopped."""
    before = look(server)
    operation = reach(server, f"after do {step}")
    halt_at(server, f"before undo {step}")
    server.boot()
    wait_until_halted(server, f"before undo {step}")
    server.wait_for_k3s()
    if step == "seal-pre-image":
        server.create_config_map("written-meanwhile", text="by a user, to a k3s that works")
        before = dataclasses.replace(before, rows=kine_rows(server), keys=server.kine_live())
    else:
        assert server.exists(MEMBER_WAL) and not server.exists(f"{DB}/state.db")

    go_on(server)

    ended = wait_until_finished(server, operation)
    assert (ended["outcome"], ended["finished_by"]) == ("rolled_back", "agent"), ended["reason"]
    server.remove(HALT)
    on_sqlite_as_before(server, before)
    writes_to(server, server.kine_live)
    never_called_a_success(server)
    whole_at_every_start(server)


def test_a_committed_migration_is_cut_off_again_and_again(new_server: NewServer) -> None:
    """In every step of its tidying up, by one reboot after the other: it only ever goes forward."""
    node = witnessed(new_server("n2", **OPTIONS))
    before = look(node)
    halt_at(node, COMMITTED[0])
    operation = begin(node)
    for here, next_ in zip(COMMITTED, (*COMMITTED[1:], None), strict=True):
        wait_until_halted(node, here)
        assert record(node)["committed"]
        cut(node)
        if next_ is not None:
            halt_at(node, next_)
        node.boot()

    ended = wait_until_finished(node, operation)
    assert (ended["outcome"], ended["reason"]) == ("succeeded", None)
    assert not any("Undoing" in line for line in node.messages(AGENT))
    on_etcd_with_all(node, before, ended)
    writes_to(node, node.etcd_live)
    whole_at_every_start(node)
    every_step_was_cut_off((*FORWARD, *COMMITTED), ended, besides={"in"})


def test_the_way_back_is_cut_off_again_and_again(new_server: NewServer) -> None:
    """In the undo of every step, by one reboot after the other: it only ever goes back."""
    node = witnessed(new_server("n2", **OPTIONS, faults={"skip_key_number": 100}))
    before = look(node)
    halt_at(node, BACK[0])
    operation = begin(node)
    for here, next_ in zip(BACK, (*BACK[1:], None), strict=True):
        wait_until_halted(node, here)
        assert record(node)["phase"] == "undoing"
        cut(node)
        node.standin()
        if next_ is not None:
            halt_at(node, next_)
        node.boot()

    ended = wait_until_finished(node, operation)
    assert (ended["outcome"], ended["finished_by"]) == ("rolled_back", "agent"), ended["reason"]
    assert ended["failed_evidence"] == ["data-equal"]
    on_sqlite_as_before(node, before)
    writes_to(node, node.kine_live)
    never_called_a_success(node)
    whole_at_every_start(node)
    begun = [step["name"] for step in ended["steps"] if step["status"] != "pending"]
    assert [f"after undo {name}" for name in reversed(begun)] == list(BACK), "a step whose undo is not cut off here"


def every_step_was_cut_off(points: tuple[str, ...], operation: dict[str, object], besides: set[str]) -> None:
    steps = operation["steps"]
    assert isinstance(steps, list)
    named = {point.split()[-1] for point in points if point.split()[0] not in besides}
    assert {step["name"] for step in steps} == named, "a step that no reboot hits: add it to the points above"


@pytest.fixture(scope="module")
def on_etcd(lab: Lab) -> Iterator[Migrated]:
    """A server that was migrated, with a write since."""
    if lab.k3s_binary:
        pytest.skip("needs the stand-in k3s: a real one is not made to stand still")
    node = lab.node("n3")
    yield migrated(witnessed(make_server(node, **OPTIONS)))
    node.destroy()


def migrated(node: Node) -> Migrated:
    before = look(node)
    code, migration = operate(node, "migrate")
    assert code == DONE, migration
    node.create_config_map("made-after", text="lost by a rollback that discards")
    path = "/api/v1/namespaces/seeded/configmaps/seed-00007"
    assert node.kubectl(path, "PATCH", {"data": {"content": "changed after the migration"}}).status == 200
    revision = node.etcd_revision()
    return Migrated(node, before, migration, revision, node.etcd_live(revision=revision), configuration(node))


@pytest.mark.parametrize("point", ROLLBACK)
def test_a_rollback_is_cut_off(on_etcd: Migrated, point: str) -> None:
    """Back on etcd, where it came from, whole."""
    node = on_etcd.node
    operation = reach(node, point, "rollback", writes="discard", confirm_lost_writes=True)

    node.boot()

    ended = wait_until_finished(node, operation)
    assert (ended["outcome"], ended["finished_by"]) == ("rolled_back", "agent"), ended["reason"]
    assert "cut off by a reboot" in ended["reason"]
    still_on_etcd(on_etcd)
    writes_to(node, node.etcd_live)
    whole_at_every_start(node)


def test_k3s_is_up_before_the_agent_goes_back_to_etcd(on_etcd: Migrated) -> None:
    node = on_etcd.node
    operation = reach(node, "after do restore-sqlite", "rollback", writes="discard", confirm_lost_writes=True)
    halt_at(node, "before undo restore-sqlite")
    node.boot()
    wait_until_halted(node, "before undo restore-sqlite")
    node.wait_for_k3s()
    assert not node.exists(MEMBER_WAL)

    go_on(node)

    ended = wait_until_finished(node, operation)
    assert (ended["outcome"], ended["finished_by"]) == ("rolled_back", "agent"), ended["reason"]
    node.remove(HALT)
    still_on_etcd(on_etcd)
    writes_to(node, node.etcd_live)
    whole_at_every_start(node)


# --- without the agent --------------------------------------------------------------------------------

PACKAGE = (
    "/usr/bin/k3s-ha-agent",
    "/usr/bin/k3s-ha-agentctl",
    "/usr/lib/k3s-ha-agent",
    "/usr/lib/python3/dist-packages/k3s_ha_agent",
    "/usr/lib/systemd/system/k3s-ha-agent.service",
    "/usr/lib/systemd/system/k3s-ha-agent-rescue.service",
)
"""All that runs of the package: agent, command line, rescue and their units."""


def remove_package(node: Node, aside: Path) -> None:
    for name in PACKAGE:
        shutil.move(node.path(name), aside / Path(name).name)


def put_package_back(node: Node, aside: Path) -> None:
    for name in PACKAGE:
        shutil.move(aside / Path(name).name, node.path(name))
    node.systemctl("daemon-reload")


def agent_comes_back(node: Node, aside: Path, operation: str) -> dict[str, object]:
    put_package_back(node, aside)
    node.systemctl("start", AGENT)
    return wait_until_finished(node, operation)


def test_without_the_agent_a_half_copy_is_refused(server: Node, tmp_path: Path) -> None:
    """k3s even begins the copy with nobody there, and is cut off in it: from then on it is refused, and says why."""
    before = look(server)
    operation = reach(server, "after do enable-etcd")
    remove_package(server, tmp_path)
    server.standin(faults={"hang_at_key": 200})
    server.boot()
    wait_for_copy(server)
    server.kill()
    server.standin()
    server.boot()

    failed = lambda: server.show(K3S, "ActiveState")["ActiveState"] == "failed"  # noqa: E731
    server.wait_for(failed, what="systemd leaves k3s failed")
    assert server.exec(["systemctl", "start", K3S], check=False).returncode != 0
    said = [line for line in server.messages(K3S) if REFUSAL in line]
    assert len(said) == 2
    assert f"{SERVER}/db/state.db" in said[0] and MEMBER_WAL in said[0], "the refusal does not name the files"
    command = said[0].rpartition("Run: ")[2].split()
    assert command[:2] == ["systemctl", "start"], "the refusal does not name the command that helps"
    assert server.exec(command, check=False).returncode != 0, "nothing is there that could help"
    assert server.exists(MEMBER_WAL) and server.exists(f"{DB}/state.db")

    put_package_back(server, tmp_path)
    server.exec(command)
    found = record(server)
    assert (found["id"], found["outcome"], found["finished_by"]) == (operation, "rolled_back", "rescue")
    server.systemctl("start", AGENT)
    server.wait_for_agent()
    assert server.operation()["finished_by"] == "rescue"
    on_sqlite_as_before(server, before)
    writes_to(server, server.kine_live)
    never_called_a_success(server)
    whole_at_every_start(server)


def test_without_the_agent_what_is_written_to_sqlite_is_kept(server: Node, tmp_path: Path) -> None:
    """k3s had not begun to convert: it goes on with its SQLite, and the agent that comes back takes nothing away."""
    before = look(server)
    operation = reach(server, "after do seal-pre-image")
    remove_package(server, tmp_path)
    server.boot()
    server.wait_for_k3s()
    server.create_config_map("written-meanwhile", text="by a user, to a k3s that works")
    now = dataclasses.replace(before, rows=kine_rows(server), keys=server.kine_live())
    assert now.rows.items() >= before.rows.items()

    ended = agent_comes_back(server, tmp_path, operation)

    assert (ended["outcome"], ended["finished_by"]) == ("rolled_back", "agent"), ended["reason"]
    on_sqlite_as_before(server, now)
    writes_to(server, server.kine_live)
    whole_at_every_start(server)


def test_without_the_agent_a_whole_etcd_serves(server: Node, tmp_path: Path) -> None:
    """Not proven, but whole: the gate lets k3s run on it. The agent that comes back goes back."""
    before = look(server)
    operation = reach(server, "after do prove")
    remove_package(server, tmp_path)
    server.boot()
    server.wait_for_k3s()
    assert_same(others(server, before.keys), others(server, server.etcd_live()))

    ended = agent_comes_back(server, tmp_path, operation)

    assert (ended["outcome"], ended["finished_by"]) == ("rolled_back", "agent"), ended["reason"]
    on_sqlite_as_before(server, before)
    writes_to(server, server.kine_live)
    never_called_a_success(server)
    whole_at_every_start(server)


# --- with an agent that does not start ----------------------------------------------------------------

BROKEN = "/usr/lib/python3/dist-packages/k3s_ha_agent/model.py"


def break_agent(node: Node) -> str:
    """A file of the package with an error in it, as a disk or an upgrade may leave it; what stood there."""
    text = node.read(BROKEN)
    node.write(BROKEN, text + "\nthis is no Python\n")
    return text


def rescue_comes(node: Node, operation: str, was: str) -> None:
    """By OnFailure= of the agent's unit; afterwards the agent is mended and finds nothing to do."""
    node.wait_for(lambda: record(node)["phase"] == "finished", what="the rescue has come", timeout=180)
    found = record(node)
    assert (found["id"], found["outcome"], found["finished_by"]) == (operation, "rolled_back", "rescue")
    assert "SyntaxError" in node.journal(AGENT)
    node.wait_for(lambda: node.show(RESCUE, "ActiveState")["ActiveState"] == "inactive", what="the rescue has ended")
    node.write(BROKEN, was)
    node.systemctl("reset-failed", AGENT)
    node.systemctl("start", AGENT)
    node.wait_for_agent()
    assert node.operation()["finished_by"] == "rescue"


@pytest.mark.parametrize("point", ["after do seal-pre-image", IN_THE_COPY, "after do prove"])
def test_a_broken_agent_calls_the_rescue(server: Node, point: str) -> None:
    before = look(server)
    operation = reach(server, point)
    was = break_agent(server)
    server.boot()
    rescue_comes(server, operation, was)
    if point == IN_THE_COPY:
        assert any(REFUSAL in line for line in server.messages(K3S)), "k3s was not even tried at boot"
    on_sqlite_as_before(server, before)
    writes_to(server, server.kine_live)
    never_called_a_success(server)
    whole_at_every_start(server)


def test_a_broken_agent_calls_the_rescue_in_a_rollback(on_etcd: Migrated) -> None:
    node = on_etcd.node
    operation = reach(node, "after do restore-sqlite", "rollback", writes="discard", confirm_lost_writes=True)
    was = break_agent(node)
    node.boot()
    rescue_comes(node, operation, was)
    still_on_etcd(on_etcd)
    writes_to(node, node.etcd_live)
    whole_at_every_start(node)
