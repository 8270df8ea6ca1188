"""The agent's API and command line on a real server: one operation at a time, replays, aborts, who may ask."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
from collections.abc import Iterator

import pytest

from tests.lab import system
from tests.lab.lab import Lab
from tests.lab.node import AGENT, SERVER, SOCKET, Answer, Node
from tests.lab.scenarios import (
    CONFLICT,
    DONE,
    RESCUE,
    ROLLED_BACK,
    STATE,
    SharedServer,
    begin,
    look,
    never_called_a_success,
    on_etcd_with_all,
    on_sqlite_as_before,
    operate,
    records,
    wait_for_step,
    wait_until_finished,
)


@pytest.fixture(scope="module")
def shared(lab: Lab) -> Iterator[SharedServer]:
    if lab.k3s_binary:
        pytest.skip("needs the stand-in k3s: these scenarios want a slow copy")
    server = SharedServer(lab, speed={"put_delay": 0.004}, agent={"stability_window": "20s"})
    yield server
    server.close()


@pytest.fixture
def server(shared: SharedServer) -> Node:
    return shared.ready()


def post(node: Node, path: str, body: object, key: str) -> Answer:
    return node.api("POST", path, body, headers={"Idempotency-Key": key})


def test_one_operation_at_a_time(server: Node) -> None:
    before = look(server)
    running = begin(server)
    wait_for_step(server, "start-k3s")

    for kind, body in (("migrate", {}), ("rollback", {"writes": "discard"})):
        answer = server.api("POST", f"/v1/{kind}", body)
        assert (answer.status, answer.json["code"]) == (409, "operation-in-progress")
        assert answer.json["operation"] == running
    code, problem = operate(server, "migrate")
    assert (code, problem["operation"]) == (CONFLICT, running)
    assert server.api("GET", "/v1/status").json["running_operation"]["id"] == running
    assert server.api("GET", f"/v1/operations/{running}/wait?timeout=1s").status == 504

    assert server.api("POST", f"/v1/operations/{running}/abort").status == 202
    assert wait_until_finished(server, running)["outcome"] == "rolled_back"
    assert server.api("GET", f"/v1/operations/{running}/wait?timeout=1s").status == 200
    assert len(records(server)) == 1
    on_sqlite_as_before(server, before)


@pytest.mark.parametrize("step", ["save-pre-image", "start-k3s", "hold-still"])
def test_aborted(server: Node, step: str) -> None:
    before = look(server)
    operation = begin(server)
    wait_for_step(server, step)

    answer = server.api("POST", f"/v1/operations/{operation}/abort")

    assert (answer.status, answer.json["id"], answer.json["abort_requested"]) == (202, operation, True)
    ended = wait_until_finished(server, operation)
    assert ended["outcome"] == "rolled_back" and "aborted on request" in ended["reason"]
    assert server.ctl("watch", operation).returncode == ROLLED_BACK
    answer = server.api("POST", f"/v1/operations/{operation}/abort")
    assert (answer.status, answer.json["code"]) == (409, "conflict")
    on_sqlite_as_before(server, before)
    never_called_a_success(server)


def test_past_the_commitment_nothing_is_aborted(server: Node) -> None:
    """etcd stands still from the commitment on, so that the tidying up takes a while."""
    before = look(server)
    operation = begin(server, stability="1s")
    wait_for_step(server, "hold-still")
    etcd = the_etcd_of(server)
    wait_for_step(server, "commit", "done")
    os.kill(etcd, signal.SIGSTOP)
    try:
        answer = server.api("POST", f"/v1/operations/{operation}/abort")
    finally:
        os.kill(etcd, signal.SIGCONT)
    assert (answer.status, answer.json["code"]) == (409, "already-committed")
    ended = wait_until_finished(server, operation)
    assert (ended["outcome"], ended["reason"]) == ("succeeded", None)
    on_etcd_with_all(server, before, ended)


def the_etcd_of(node: Node) -> int:
    """The process as this machine numbers it: it is a child of the node's k3s."""
    leader = node.leader()
    assert leader is not None
    parents = [pid for pid in system.children(leader) if "server" in system.command_line(pid)]
    return next(pid for parent in parents for pid in system.children(parent) if "etcd" in system.command_line(pid)[0])


def test_the_same_request_again_is_the_same_operation(server: Node) -> None:
    body = {"stability": "15s"}
    before = len(records(server))
    first = post(server, "/v1/migrate", body, "monday")
    assert first.status == 202
    assert first.headers["location"] == f"/v1/operations/{first.json['id']}"
    wait_for_step(server, "start-k3s")
    for restarted in (False, True):
        if restarted:
            server.systemctl("restart", AGENT)
            server.wait_for_agent()
        again = post(server, "/v1/migrate", body, "monday")
        assert (again.status, again.json["id"]) == (202, first.json["id"])
        other = post(server, "/v1/migrate", {"stability": "16s"}, "monday")
        assert (other.status, other.json["code"]) == (422, "idempotency-key-reused")
    server.wait_for(lambda: server.api("POST", f"/v1/operations/{first.json['id']}/abort").status == 202)
    wait_until_finished(server, first.json["id"])
    again = post(server, "/v1/migrate", body, "monday")
    assert (again.json["id"], again.json["outcome"]) == (first.json["id"], "rolled_back")
    assert len(records(server)) == before + 1


def test_events_can_be_read_again_from_any_of_them(server: Node) -> None:
    operation = begin(server)
    wait_for_step(server, "start-k3s")
    server.api("POST", f"/v1/operations/{operation}/abort")
    events = server.api("GET", f"/v1/operations/{operation}/events").text  # ends with the operation
    numbers = [int(line.removeprefix("id: ")) for line in events.splitlines() if line.startswith("id: ")]
    assert numbers == sorted(set(numbers)) and "event: finished" in events
    middle = str(numbers[len(numbers) // 2])
    rest = server.api("GET", f"/v1/operations/{operation}/events", headers={"Last-Event-ID": middle}).text
    assert f"\nid: {middle}\n" not in f"\n{rest}" and rest.count("event: finished") == 1
    assert events.partition(f"id: {middle}\n")[2].endswith(rest.partition("\n\n")[2])


def test_who_may_ask(server: Node) -> None:
    """The socket belongs to root and the group k3s-ha; nobody else gets as far as a question."""
    socket = server.path(SOCKET).stat()
    assert stat.S_IMODE(socket.st_mode) == 0o660
    server.exec(["useradd", "--groups", "k3s-ha", "somebody"])
    try:
        ask = ["curl", "--silent", "--unix-socket", SOCKET, "http://localhost/v1/status"]
        assert server.exec(["runuser", "--user", "nobody", "--", *ask], check=False).returncode == 7
        allowed = server.exec(["runuser", "--user", "somebody", "--", *ask])
        assert json.loads(allowed.stdout)["node"]["datastore"] == "sqlite"
        dry = ["runuser", "--user", "somebody", "--", "k3s-ha-agentctl", "migrate", "--dry-run"]
        assert server.exec(dry, check=False).returncode == DONE
    finally:
        server.exec(["userdel", "somebody"])


def test_health_and_an_agent_that_is_not_there(server: Node) -> None:
    assert server.api("GET", "/livez").status == server.api("GET", "/readyz").status == 200
    assert "k3s_ha_agent_" in server.api("GET", "/metrics").text
    server.systemctl("stop", AGENT)
    done = server.ctl("status")
    assert done.returncode == 7 and "systemctl status k3s-ha-agent.service" in done.stderr
    server.systemctl("start", AGENT)


def test_no_secret_leaves_the_server(server: Node) -> None:
    """Nothing the agent wrote or answered holds the token or a Secret's value; copies are for root alone."""
    password = server.read(f"{SERVER}/token").strip().rpartition(":")[2]
    secret = next(value for key, value in server.kine_live("/registry/secrets/").items() if len(value) > 40)
    operation = begin(server, stability="1s")
    ended = wait_until_finished(server, operation)
    assert ended["outcome"] == "succeeded"
    shown = [json.dumps(ended), server.api("GET", "/v1/backups").text, server.api("GET", "/v1/status").text]
    shown += [server.api("GET", f"/v1/operations/{operation}/events").text, server.journal(AGENT, output="json")]
    shown += [path.read_text() for path in server.path(f"{STATE}/operations/{operation}").iterdir()]
    parts = [password, secret[-40:].decode("latin-1")]
    assert not [part for part in parts for text in shown if part in text]
    limits = server.exec(["cat", f"/proc/{server.show(AGENT, 'MainPID')['MainPID']}/limits"]).stdout
    assert re.search(r"^Max core file size +0 +0 ", limits, re.MULTILINE)
    assert server.show(RESCUE, "LimitCORE")["LimitCORE"] == "0"
    tree = server.tree(STATE)
    assert any(path.endswith("/server/token") for path in tree), "the copy of the token is not where it is looked for"
    assert not [path for path, facts in tree.items() if "/operations" in path and facts[4:10] != "------"]
    assert tree[f"{STATE}/backups/{operation}"].startswith("drwx------")
