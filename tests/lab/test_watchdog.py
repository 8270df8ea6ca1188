"""What the agent stands on falters in the window: the agent hangs, k3s is killed, the installer is run once more, D-Bus
or journald is restarted. The operation goes on, or goes back, by itself; never anything in between.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest

from tests.lab.halting import go_on, halt_at, wait_until_halted
from tests.lab.node import AGENT, K3S, Node
from tests.lab.scenarios import (
    DB,
    MEMBER_WAL,
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
SLOW: dict[str, object] = {"put_delay": 0.01}
"""A copy that takes at least four seconds."""
WATCHDOG = f"/usr/lib/systemd/system/{AGENT}.d/zz-lab-watchdog.conf"
"""Not below /etc: what is there is compared."""


def pid_of(node: Node, unit: str) -> str:
    return node.show(unit, "MainPID")["MainPID"]


# --- the agent hangs ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("faults", "outcome"), [({}, "succeeded"), ({"die_after_keys": 300}, "rolled_back")], ids=["well", "k3s-dies"]
)
def test_a_hung_agent_is_replaced(new_server: NewServer, faults: dict[str, object], outcome: str) -> None:
    """WatchdogSec= of its unit, made short here: the new one goes on where the operation is by now, or goes back."""
    node = new_server(speed=SLOW, faults=faults, agent={"stability_window": "1s"})
    # A stopped process ends by no signal but SIGKILL, which systemd sends after the time allowed for stopping.
    node.write(WATCHDOG, "[Service]\nWatchdogSec=3s\nTimeoutStopSec=1s\n")
    node.systemctl("daemon-reload")
    node.systemctl("restart", AGENT)
    node.wait_for_agent()
    before = look(node)
    operation = begin(node)
    wait_for_copy(node)
    hung = pid_of(node, AGENT)
    node.systemctl("kill", "--kill-who=main", "--signal=STOP", AGENT)
    assert record(node)["outcome"] is None, "the agent hung too late"

    ended = wait_until_finished(node, operation)

    assert pid_of(node, AGENT) != hung
    assert "Watchdog timeout" in node.journal(AGENT)
    assert (ended["outcome"], ended["finished_by"]) == (outcome, "agent"), ended["reason"]
    if outcome == "succeeded":
        assert "going on from there" in node.journal(AGENT)
        on_etcd_with_all(node, before, ended)
    else:
        assert ended["failed_evidence"]
        on_sqlite_as_before(node, before)
        never_called_a_success(node)


# --- k3s is killed --------------------------------------------------------------------------------


def test_k3s_is_killed_in_the_copy(new_server: NewServer) -> None:
    """As the kernel does it that is out of memory. The gate keeps systemd from starting it again."""
    node = new_server(speed=SLOW)
    before = look(node)
    operation = begin(node)
    wait_for_copy(node)
    node.systemctl("kill", "--kill-who=main", "--signal=KILL", K3S)
    assert node.exists(MEMBER_WAL) and node.exists(f"{DB}/state.db"), "the kill came too late"

    ended = wait_until_finished(node, operation)

    assert (ended["outcome"], ended["failed_evidence"]) == ("rolled_back", ["copy-finished"]), ended["reason"]
    assert not any("Scheduled restart job" in line for line in node.messages(K3S))
    on_sqlite_as_before(node, before)
    never_called_a_success(node)


# --- the installer is run once more ---------------------------------------------------------------


def run_installer(node: Node) -> int:
    """What k3s's installer does to systemd (k3s-facts 4.4): unit and environment file deleted and written anew,
    daemon-reload, enable, restart. The exit code of the restart."""
    for name in ("k3s.service", "k3s.service.env"):
        path = f"/etc/systemd/system/{name}"
        text, status = node.read(path), node.path(path).stat()
        node.remove(path)
        node.write(path, text, mode=status.st_mode & 0o7777)
        os.utime(node.path(path), ns=(status.st_atime_ns, status.st_mtime_ns))  # as scenarios compare it
    node.systemctl("daemon-reload")
    node.systemctl("enable", "--quiet", K3S)
    return node.exec(["systemctl", "restart", K3S], check=False).returncode


def test_the_installer_is_run_in_the_copy(new_server: NewServer) -> None:
    """Its restart kills the copy; the gate, which it does not touch, keeps k3s from the half of it."""
    node = new_server(speed=SLOW)
    before = look(node)
    operation = begin(node)
    wait_for_copy(node)
    assert run_installer(node) != 0
    assert any("refusing to start k3s on a half-copied datastore" in line for line in node.messages(K3S))

    ended = wait_until_finished(node, operation)

    assert (ended["outcome"], ended["failed_evidence"]) == ("rolled_back", ["copy-finished"]), ended["reason"]
    on_sqlite_as_before(node, before)
    never_called_a_success(node)


def test_the_installer_is_run_when_the_copy_has_ended(new_server: NewServer) -> None:
    """k3s is up again at once, on the whole etcd; but it is not the one run of k3s that the proof is about."""
    node = new_server(agent={"stability_window": "30s"})
    before = look(node)
    operation = begin(node)
    wait_for_step(node, "hold-still")
    run_installer(node)  # which may see the agent stop the k3s it has started

    ended = wait_until_finished(node, operation)

    assert ended["outcome"] == "rolled_back" and "another invocation id" in ended["reason"]
    on_sqlite_as_before(node, before)
    never_called_a_success(node)


# --- D-Bus, journald ------------------------------------------------------------------------------


def restart_dbus(node: Node) -> None:
    """The daemon is killed; its socket starts another as soon as somebody asks."""
    old = pid_of(node, "dbus.service")
    node.systemctl("kill", "--kill-who=main", "--signal=KILL", "dbus.service")
    node.wait_for(lambda: pid_of(node, "dbus.service") != old, poll=0.02, what="the bus daemon is dead")
    node.systemctl("start", "dbus.service")
    assert pid_of(node, "dbus.service") not in ("0", old)


def restart_journald(node: Node) -> None:
    old = pid_of(node, "systemd-journald.service")
    node.systemctl("restart", "systemd-journald.service")
    assert pid_of(node, "systemd-journald.service") not in ("0", old)


@pytest.mark.parametrize("restart", [restart_dbus, restart_journald])
def test_a_daemon_is_restarted_in_the_window(new_server: NewServer, restart: Callable[[Node], None]) -> None:
    """In the copy, and once more while the new datastore is watched: the migration goes on."""
    node = new_server(speed=SLOW, agent={"stability_window": "4s"})
    before, agent = look(node), pid_of(node, AGENT)
    operation = begin(node)
    wait_for_copy(node)
    restart(node)
    assert node.exists(f"{DB}/state.db"), "the restart came too late"
    wait_for_step(node, "hold-still")
    restart(node)
    assert record(node)["committed"] is False, "the restart came too late"

    ended = wait_until_finished(node, operation)

    assert (ended["outcome"], ended["finished_by"]) == ("succeeded", "agent"), ended["reason"]
    assert pid_of(node, AGENT) == agent, "the agent did not survive it"
    assert any("The migrate succeeded" in line for line in node.messages(AGENT))
    on_etcd_with_all(node, before, ended)


def test_dbus_is_away_when_the_operation_goes_back(new_server: NewServer) -> None:
    """No connection to systemd just when k3s has to be stopped: tried again, and done."""
    node = new_server(faults={"skip_key_number": 100})
    before = look(node)
    halt_at(node, "before undo start-k3s")
    operation = begin(node)
    wait_until_halted(node, "before undo start-k3s")
    node.systemctl("kill", "--kill-who=main", f"--signal={signal.SIGKILL.value}", "dbus.service")
    go_on(node)

    ended = wait_until_finished(node, operation)

    assert (ended["outcome"], ended["failed_evidence"]) == ("rolled_back", ["data-equal"]), ended["reason"]
    on_sqlite_as_before(node, before)
    never_called_a_success(node)
