"""The agent dies or is stopped in the middle: it goes on, or goes back, or the rescue does it for it.

Being told to stop is never a failure: SIGTERM undoes nothing.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

import pytest

from tests.lab import system
from tests.lab.node import AGENT, K3S, Node
from tests.lab.scenarios import (
    DB,
    GATE,
    MEMBER_WAL,
    RESCUE,
    RESCUE_TIMER,
    begin,
    look,
    never_called_a_success,
    on_etcd_with_all,
    on_sqlite_as_before,
    record,
    wait_for_copy,
    wait_for_step,
    wait_until_finished,
)

NewServer = Callable[..., Node]
SLOW: dict[str, object] = {"put_delay": 0.005}
"""A copy of 521 keys that takes at least 2.6 s."""


def agent(node: Node) -> int:
    """The agent's process as this machine numbers it: a signal sent from here is there before the next act."""
    leader = node.leader()
    assert leader is not None
    return next(pid for pid in system.children(leader) if system.command_line(pid)[-1:] == ["/usr/bin/k3s-ha-agent"])


def wait_until_on_etcd(node: Node) -> None:
    """k3s has ended its copy with nobody watching."""
    node.wait_for(lambda: node.k3s_ready() and "etcd" in node.roles(), what="k3s is on etcd")


def wait_for_the_rescue(node: Node) -> None:
    node.wait_for(lambda: record(node)["phase"] == "finished", timeout=180, what="the rescue has come")


# --- and started again -----------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["stop-k3s", "start-k3s", "hold-still"])
def test_killed_and_started_again_it_goes_on(new_server: NewServer, step: str) -> None:
    """systemd starts it again after 2 s; in the same boot and before the deadline it goes on where it was."""
    node = new_server(speed=SLOW, agent={"stability_window": "1s"})
    before, pid = look(node), agent(node)
    operation = begin(node)
    wait_for_step(node, step)
    os.kill(pid, signal.SIGKILL)
    assert record(node)["outcome"] is None, "the kill came too late"

    ended = wait_until_finished(node, operation)

    assert (ended["outcome"], ended["finished_by"]) == ("succeeded", "agent")
    assert {each["status"] for each in ended["steps"]} == {"done"}
    assert "going on from there" in node.journal(AGENT)
    on_etcd_with_all(node, before, ended)


def test_killed_while_undoing_it_undoes_further(new_server: NewServer) -> None:
    node = new_server(faults={"skip_key_number": 100})
    before, pid = look(node), agent(node)
    operation = begin(node)
    wait_for_step(node, "stop-k3s", "undoing")
    os.kill(pid, signal.SIGKILL)
    assert record(node)["phase"] == "undoing", "the kill came too late"

    ended = wait_until_finished(node, operation)

    assert (ended["outcome"], ended["failed_evidence"]) == ("rolled_back", ["data-equal"])
    assert "undoing further" in node.journal(AGENT)
    on_sqlite_as_before(node, before)
    never_called_a_success(node)


def test_started_again_after_the_deadline_it_goes_back(new_server: NewServer) -> None:
    node = new_server(speed=SLOW)
    before = look(node)
    operation = begin(node, timeout="6s", stability="1s")
    wait_for_copy(node)
    node.systemctl("stop", AGENT)
    wait_until_on_etcd(node)
    deadline = float(record(node)["facts"]["deadline_boottime"])
    node.wait_for(lambda: time.clock_gettime(time.CLOCK_BOOTTIME) > deadline, what="the deadline is past")
    node.systemctl("start", AGENT)

    ended = wait_until_finished(node, operation)

    assert ended["outcome"] == "rolled_back" and "past its deadline" in ended["reason"]
    on_sqlite_as_before(node, before)
    never_called_a_success(node)


def test_the_power_fails_in_the_copy(new_server: NewServer) -> None:
    """At the next boot the gate keeps k3s from the half copy, and the agent goes back."""
    node = new_server(speed=SLOW)
    before = look(node)
    operation = begin(node)
    wait_for_copy(node)
    node.reboot_hard()

    ended = wait_until_finished(node, operation)

    assert ended["outcome"] == "rolled_back" and "cut off by a reboot" in ended["reason"]
    assert not any("bootstrap already complete and initialized" in line for line in node.messages(K3S))
    on_sqlite_as_before(node, before)
    never_called_a_success(node)


# --- told to stop ------------------------------------------------------------------------------------


def test_restarted_in_good_order_it_goes_on(new_server: NewServer) -> None:
    """As an upgrade of its package does, in the copy and once more when k3s is up."""
    node = new_server(speed=SLOW, agent={"stability_window": "4s"})
    before = look(node)
    operation = begin(node)
    wait_for_copy(node)
    node.systemctl("restart", AGENT)
    wait_for_step(node, "hold-still")
    node.systemctl("stop", AGENT)
    found = record(node)
    assert (found["phase"], found["outcome"], found["committed"]) == ("doing", None, False)
    assert node.exists(MEMBER_WAL) and node.exists(f"{DB}/state.db.migrated") and node.exists(GATE)
    assert node.active(RESCUE_TIMER)
    node.systemctl("start", AGENT)

    ended = wait_until_finished(node, operation)

    assert (ended["outcome"], ended["finished_by"]) == ("succeeded", "agent")
    assert not any("Undoing" in line for line in node.messages(AGENT))
    on_etcd_with_all(node, before, ended)


# --- and never started again ---------------------------------------------------------------------------


def test_the_timer_brings_sqlite_back(new_server: NewServer) -> None:
    """One agent is killed and its unit gone, another is stopped in good order: neither is ever started again.

    k3s ends its copies by itself, well or not, and nobody looks: the timer of each server brings its SQLite back.
    """
    settings = {"undo_timeout": "1s", "stability_window": "1s"}
    killed = new_server("n1", agent=settings, speed=SLOW, faults={"skip_key_number": 100})
    stopped = new_server("n2", agent=settings, speed=SLOW)
    before = {node: look(node) for node in (killed, stopped)}
    for node in before:
        begin(node, timeout="5s")
        wait_for_copy(node)
        if node is killed:
            node.lose_agent()
        else:
            node.systemctl("stop", AGENT)
    for node in before:
        wait_until_on_etcd(node)
        assert node.active(RESCUE_TIMER) and record(node)["outcome"] is None
    for node, was in before.items():
        wait_for_the_rescue(node)
        ended = record(node)
        assert (ended["outcome"], ended["committed"], ended["finished_by"]) == ("rolled_back", False, "rescue")
        on_sqlite_as_before(node, was)
        never_called_a_success(node)

    # The agent that comes back later finds nothing to do, and the server can be migrated.
    stopped.systemctl("start", AGENT)
    stopped.wait_for_agent()
    assert stopped.operation()["finished_by"] == "rescue"
    assert stopped.api("GET", "/v1/preflight?for=migrate").json["ok"]


def test_an_agent_that_cannot_start_any_more_calls_the_rescue(new_server: NewServer) -> None:
    """OnFailure= of its unit, long before the timer."""
    node = new_server(speed={"put_delay": 0.02})
    before, pid = look(node), agent(node)
    operation = begin(node)
    wait_for_copy(node)
    node.write("/usr/bin/k3s-ha-agent", "#!/bin/sh\nexit 1\n", mode=0o755)
    os.kill(pid, signal.SIGKILL)

    wait_for_the_rescue(node)

    ended = record(node)
    assert (ended["id"], ended["outcome"], ended["finished_by"]) == (operation, "rolled_back", "rescue")
    assert "start-limit-hit" in node.journal(AGENT) or "repeated too quickly" in node.journal(AGENT)
    node.wait_for(lambda: node.show(RESCUE, "ActiveState")["ActiveState"] == "inactive", what="the rescue has ended")
    on_sqlite_as_before(node, before)
    never_called_a_success(node)


def test_the_rescue_does_without_dbus(new_server: NewServer) -> None:
    """``systemctl`` of root asks systemd by /run/systemd/private: the bus and the agent are gone, and stay so."""
    node = new_server(speed={"put_delay": 0.02})
    before = look(node)
    begin(node)
    wait_for_copy(node)
    node.lose_agent()
    node.systemctl("stop", "dbus.socket", "dbus.service")

    node.systemctl("start", RESCUE)

    assert not node.active("dbus.socket") and not node.active("dbus.service")
    ended = record(node)
    assert (ended["outcome"], ended["finished_by"]) == ("rolled_back", "rescue")
    on_sqlite_as_before(node, before)
    never_called_a_success(node)
