"""The node killed whole in the middle of an operation and booted again without the agent, or with one that does not
start: the gate stands all the same, says what helps, and what it says helps.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.cutting import (
    IN_THE_COPY,
    OPTIONS,
    REFUSAL,
    migrated,
    reach,
    whole_at_every_start,
    witnessed,
    writes_to,
)
from tests.lab.datastore import assert_same
from tests.lab.lab import Lab
from tests.lab.node import AGENT, K3S, SERVER, Node
from tests.lab.scenarios import (
    DB,
    MEMBER_WAL,
    RESCUE,
    SharedServer,
    kine_rows,
    look,
    never_called_a_success,
    on_sqlite_as_before,
    others,
    record,
    wait_for_copy,
    wait_until_finished,
)
from tests.lab.servers import make_server
from tests.lab.test_rollback import still_on_etcd


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
    for number, name in enumerate(PACKAGE):
        shutil.move(node.path(name), aside / str(number))


def put_package_back(node: Node, aside: Path) -> None:
    for number, name in enumerate(PACKAGE):
        shutil.move(aside / str(number), node.path(name))
    node.systemctl("daemon-reload")


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
    rolled_back_by("rescue", server, operation)
    on_sqlite_as_before(server, before)
    writes_to(server, server.kine_live)
    never_called_a_success(server)
    whole_at_every_start(server)


@pytest.mark.parametrize("who", ["agent", "rescue"])
def test_without_the_agent_what_is_written_to_sqlite_is_kept(server: Node, tmp_path: Path, who: str) -> None:
    """k3s had not begun to convert: it goes on with its SQLite, and who comes back takes nothing away."""
    before = look(server)
    operation = reach(server, "after do seal-pre-image")
    remove_package(server, tmp_path)
    server.boot()
    server.wait_for_k3s()
    server.create_config_map(f"written-before-the-{who}", text="by a user, to a k3s that works")
    now = dataclasses.replace(before, rows=kine_rows(server), keys=server.kine_live())
    assert now.rows.items() >= before.rows.items()

    put_package_back(server, tmp_path)
    server.systemctl("start", RESCUE if who == "rescue" else AGENT)

    rolled_back_by(who, server, operation)
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

    put_package_back(server, tmp_path)
    server.systemctl("start", AGENT)

    rolled_back_by("agent", server, operation)
    on_sqlite_as_before(server, before)
    writes_to(server, server.kine_live)
    never_called_a_success(server)
    whole_at_every_start(server)


def rolled_back_by(who: str, node: Node, operation: str) -> None:
    """And the agent, which is there again, knows."""
    node.systemctl("start", AGENT)
    ended = wait_until_finished(node, operation)
    assert (ended["outcome"], ended["finished_by"]) == ("rolled_back", who), ended["reason"]


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
    rolled_back_by("rescue", node, operation)


@pytest.mark.parametrize("point", ["after do seal-pre-image", IN_THE_COPY])
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


def test_a_broken_agent_calls_the_rescue_in_a_rollback(lab: Lab) -> None:
    if lab.k3s_binary:
        pytest.skip("needs the stand-in k3s: a real one is not made to stand still")
    node = lab.node("n2")
    try:
        before = migrated(witnessed(make_server(node, **OPTIONS)))
        operation = reach(node, "after do restore-sqlite", "rollback", writes="discard", confirm_lost_writes=True)
        was = break_agent(node)
        node.boot()
        rescue_comes(node, operation, was)
        still_on_etcd(before)
        writes_to(node, node.etcd_live)
        whole_at_every_start(node)
    finally:
        node.destroy()
