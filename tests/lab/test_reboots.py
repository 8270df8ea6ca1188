"""The node killed whole in each step of an operation, on the way forward and on the way back, and booted again.

k3s never comes up on a half-copied datastore, nor on none: a witness behind the gate writes down on what each start
that the gate let through would run. And in the end there is one datastore, whole, and nothing is left behind.

What a real power failure adds, the loss of what was not synced, is not shown here (README.md, docs/interruptions.md).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import pytest

from tests.lab.cutting import IN_THE_COPY, OPTIONS, cut, migrated, reach, whole_at_every_start, witnessed, writes_to
from tests.lab.halting import DROP_IN as HALT
from tests.lab.halting import go_on, halt_at, wait_until_halted
from tests.lab.lab import Lab
from tests.lab.node import AGENT, Node
from tests.lab.scenarios import (
    DB,
    MEMBER_WAL,
    SharedServer,
    begin,
    kine_rows,
    look,
    never_called_a_success,
    on_etcd_with_all,
    on_sqlite_as_before,
    record,
    wait_until_finished,
)
from tests.lab.servers import make_server
from tests.lab.test_rollback import Migrated, still_on_etcd

NewServer = Callable[..., Node]

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


# --- a migration ------------------------------------------------------------------------------------


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


# --- a rollback -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def on_etcd(lab: Lab) -> Iterator[Migrated]:
    """A server that was migrated, with a write since."""
    if lab.k3s_binary:
        pytest.skip("needs the stand-in k3s: a real one is not made to stand still")
    node = lab.node("n3")
    yield migrated(witnessed(make_server(node, **OPTIONS)))
    node.destroy()


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
