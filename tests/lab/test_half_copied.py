"""The case that matters most (k3s-facts, "Seen" 1): the copy is killed at some key, systemd starts k3s again, and the
node comes up Ready, with the etcd role, on a part of the data. Whatever the agent was doing meanwhile, this is never
called a success, and every key comes back.

The gate would prevent it; so here somebody opens the gate by hand in the middle of the copy.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from tests.lab.node import AGENT, K3S, Node
from tests.lab.scenarios import (
    DB,
    FAULTS,
    GATE,
    MEMBER_WAL,
    RESCUE,
    ROLLED_BACK,
    Before,
    begin,
    look,
    never_called_a_success,
    on_sqlite_as_before,
    record,
    wait_for_copy,
    wait_until_finished,
)

NewServer = Callable[..., Node]
ROWS = 521


def about_to_be_killed(new_server: NewServer, version: str = "v1.22.2+k3s1") -> tuple[Node, Before]:
    """A server whose copy will die at a random key, once, and which systemd then starts again very soon."""
    key = random.randrange(100, 400)
    print(f"the copy dies after key {key} of {ROWS}")
    faults = {"die_after_keys": key, "once": True}
    node = new_server(version=version, faults=faults, speed={"put_delay": 0.01})
    node.write(FAULTS, "[Service]\nRestartSec=100ms\n")
    node.systemctl("daemon-reload")
    return node, look(node)


def open_gate_by_hand(node: Node, how: str = "removed") -> None:
    """What somebody does who finds the gate in his way: its drop-in removed, or overridden by a later one."""
    assert node.exists(GATE)
    if how == "removed":
        node.remove(GATE)
    else:
        node.write(FAULTS, "[Service]\nRestartSec=100ms\nRestart=always\nExecStartPre=\n")
    node.systemctl("daemon-reload")
    assert node.show(K3S, "Restart")["Restart"] == "always"


def looks_like_a_success(node: Node, before: Before) -> None:
    """The trap has sprung: all the usual signs are good, and the data is not."""
    node.wait_for(lambda: node.k3s_ready() and "etcd" in node.roles(), what="the node looks well on etcd")
    assert int(node.show(K3S, "NRestarts")["NRestarts"]) >= 1
    assert node.exists(MEMBER_WAL) and node.exists(f"{DB}/state.db")
    served = node.kubectl("/api/v1/namespaces/seeded/configmaps").json["items"]
    assert len(served) < before.seeded


def rolled_back(node: Node, operation: str, before: Before, why: str = "") -> None:
    """By the evidence that failed, or ``why`` where the agent did not get as far as looking."""
    ended = wait_until_finished(node, operation)
    assert (ended["outcome"], ended["committed"]) == ("rolled_back", False)
    assert why in ended["reason"] if why else ended["failed_evidence"]
    assert node.ctl("watch", operation).returncode == ROLLED_BACK
    on_sqlite_as_before(node, before)
    never_called_a_success(node)


def test_while_the_agent_watches(new_server: NewServer) -> None:
    node, before = about_to_be_killed(new_server)
    operation = begin(node)
    wait_for_copy(node)
    open_gate_by_hand(node)
    rolled_back(node, operation, before)


@pytest.mark.parametrize("version", ["v1.22.2+k3s1", "v1.34.1+k3s1"])
def test_while_the_agent_stands_still(new_server: NewServer, version: str) -> None:
    node, before = about_to_be_killed(new_server, version)
    operation = begin(node)
    wait_for_copy(node)
    node.systemctl("kill", "--kill-who=main", "--signal=STOP", AGENT)
    open_gate_by_hand(node)
    looks_like_a_success(node, before)
    node.systemctl("kill", "--kill-who=main", "--signal=CONT", AGENT)
    rolled_back(node, operation, before)


def test_a_release_that_does_not_come_up_on_it(new_server: NewServer) -> None:
    """As 1.35.1: no bootstrap key in the half copy, so k3s crash-loops instead ("ten facts" 3)."""
    node, before = about_to_be_killed(new_server, "v1.35.1+k3s1")
    operation = begin(node)
    wait_for_copy(node)
    node.systemctl("kill", "--kill-who=main", "--signal=STOP", AGENT)
    open_gate_by_hand(node)
    node.wait_for(lambda: int(node.show(K3S, "NRestarts")["NRestarts"]) >= 2, what="k3s crash-loops")
    assert any("no bootstrap data found in datastore" in line for line in node.messages(K3S))
    node.systemctl("kill", "--kill-who=main", "--signal=CONT", AGENT)
    rolled_back(node, operation, before)


@pytest.mark.parametrize(("how", "why"), [("removed", "lost its gate"), ("overridden", "")])
def test_while_the_agent_is_stopped(new_server: NewServer, how: str, why: str) -> None:
    node, before = about_to_be_killed(new_server)
    operation = begin(node)
    wait_for_copy(node)
    node.systemctl("stop", AGENT)
    open_gate_by_hand(node, how)
    looks_like_a_success(node, before)
    assert record(node)["outcome"] is None, "a stopped agent has ended the operation"
    node.systemctl("start", AGENT)
    rolled_back(node, operation, before, why)


def test_while_the_agent_is_dead_and_then_the_machine_is_rebooted(new_server: NewServer) -> None:
    """SIGKILL, and nobody starts anything: no restart, no rescue. Then the power fails, with the gate still open."""
    node, before = about_to_be_killed(new_server)
    operation = begin(node)
    wait_for_copy(node)
    node.systemctl("mask", "--runtime", AGENT, RESCUE)
    node.kill_agent()
    open_gate_by_hand(node)
    looks_like_a_success(node, before)
    assert record(node)["outcome"] is None

    node.reboot_hard()  # which ends the masking too
    node.wait_for_agent()
    rolled_back(node, operation, before, "cut off by a reboot")
