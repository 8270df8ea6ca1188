"""From a second machine, over TLS: everything typed there and on the server is in the README and docs/remote-access.md.

n1 is a k3s server on SQLite with the agent from the .deb; n2 has no k3s, the .deb for the command line, and curl.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.lab import remote
from tests.lab.documents import REMOTE, commands, install, shell
from tests.lab.lab import Lab
from tests.lab.node import AGENT, Node
from tests.lab.scenarios import STATE, Before, look, on_etcd_with_all, on_sqlite_as_before, record, records

AUDIT = f"{STATE}/audit.jsonl"
REFUSED_BY_CURL = (35, 52, 55, 56)
"""curl: the handshake failed; no answer; sending failed; receiving failed: TLS 1.3 tells a client late, or not."""


class Pair:
    """The server, and the machine it is asked from."""

    def __init__(self, server: Node, controller: Node) -> None:
        self.server = server
        self.controller = controller

    def curl(self, caller: str | None, method: str, path: str, body: object = None) -> tuple[int, str]:
        """The status and the text of an answer to ``caller``; AssertionError when there is none."""
        code, out, err = self.try_curl(caller, method, path, body)
        assert code == 0, err
        text, _, status = out.rpartition("\n")
        return int(status), text

    def try_curl(self, caller: str | None, method: str, path: str, body: object = None) -> tuple[int, str, str]:
        argv = ["curl", "-sS", "-X", method, "--cacert", "/root/ca.crt", "--write-out", "\n%{http_code}"]
        if caller is not None:
            argv += ["--cert", f"/root/{caller}.crt", "--key", f"/root/{caller}.key"]
        if body is not None:
            argv += ["-H", "Content-Type: application/json", "-d", json.dumps(body)]
        done = self.controller.exec([*argv, remote.url(self.server) + path], check=False)
        return done.returncode, done.stdout, done.stderr

    def ctl(self, caller: str, *arguments: str) -> tuple[int, str, str]:
        files = ["--cacert", "/root/ca.crt", "--cert", f"/root/{caller}.crt", "--key", f"/root/{caller}.key"]
        done = self.controller.exec(
            ["k3s-ha-agentctl", *arguments, "--url", remote.url(self.server), *files], check=False, timeout=300
        )
        return done.returncode, done.stdout, done.stderr

    def audit(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.server.read(AUDIT).splitlines()]

    def settled(self) -> None:
        self.server.wait_for(lambda: record(self.server)["phase"] == "finished", what="it is tidied up")


@pytest.fixture
def pair(bare: Callable[..., Node], empty: Callable[[str], Node], deb: Path, lab: Lab) -> Pair:
    server, controller = bare("n1"), empty("n2")
    install(server, deb)
    install(controller, deb)
    remote.known_by_name(controller, server)
    remote.make_authority(controller)
    remote.documented_certificates(controller)
    remote.listen(controller, server)
    found = Pair(server, controller)
    server.wait_for(lambda: found.try_curl("controller", "GET", "/readyz")[0] == 0, what="the agent listens with TLS")
    return found


def test_a_new_user_from_a_second_machine(pair: Pair) -> None:
    """By curl and by command line, to etcd and back each time; then who may what."""
    before = look(pair.server)
    by_command_line(pair, before)
    by_curl(pair, before)
    who_may_what(pair)
    a_certificate_is_exchanged(pair)


def by_command_line(pair: Pair, before: Before) -> None:
    function, *rest = commands(REMOTE, "n1() { k3s-ha-agentctl")
    done = []
    for command in rest:
        said = shell(pair.controller, f"{function}\n{command}")
        done.append(command.split()[1])
        if done[-1] == "migrate":
            assert "start-k3s done in" in said and "this server runs on embedded etcd" in said
            pair.settled()
            on_etcd_with_all(pair.server, before, record(pair.server))
        elif done[-1] == "status":
            assert "node        n1 (ready)" in said and "etcd" in said
    assert done == ["preflight", "migrate", "status", "rollback"]
    pair.settled()
    on_sqlite_as_before(pair.server, before)
    assert [each["requested_by"] for each in records(pair.server)] == ["CN:controller"] * 2
    assert records_of(pair.controller) == [], "the agent that was asked is the one beside the command line"


def by_curl(pair: Pair, before: Before) -> None:
    function, address, preflight, migrate, events, wait, rollback = commands(REMOTE, "api() { curl -sS --cacert")

    def typed(command: str, operation: str = "") -> str:
        return shell(pair.controller, "\n".join([function, address, command.replace("ID", operation)]))

    def ended(operation: str) -> dict[str, Any]:
        found = json.loads(typed(wait, operation))
        assert (found["id"], found["outcome"]) == (operation, "succeeded"), found["reason"]
        pair.settled()
        return dict(found)

    assert json.loads(typed(preflight))["ok"]
    begun = json.loads(typed(migrate))
    seen = typed(events, begun["id"])
    assert '"start-k3s"' in seen and "event: finished" in seen
    on_etcd_with_all(pair.server, before, ended(begun["id"]))
    ended(json.loads(typed(rollback))["id"])
    on_sqlite_as_before(pair.server, before)


def who_may_what(pair: Pair) -> None:
    operations = len(records(pair.server))
    assert pair.curl("dashboard-1", "GET", "/v1/status")[0] == 200
    status, text = pair.curl("dashboard-1", "POST", "/v1/migrate", {})
    assert status == 403 and "CN:dashboard-1 has not got the role admin" in json.loads(text)["detail"]
    code, _, said = pair.ctl("dashboard-1", "migrate", "--yes")
    assert code == 1 and "CN:dashboard-1 has not got the role admin" in said

    # Nobody without a certificate, or with one of somebody else's authority, is heard at all.
    code, out, said = pair.try_curl(None, "GET", "/livez")
    assert code in REFUSED_BY_CURL and out.strip() == "000", said
    other = "openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=controller -keyout stranger.key -out stranger.crt"
    shell(pair.controller, other)
    code, out, said = pair.try_curl("stranger", "GET", "/livez")
    assert code in REFUSED_BY_CURL and out.strip() == "000", said
    assert pair.ctl("stranger", "status")[0] == 7

    assert len(records(pair.server)) == operations
    entries = pair.audit()
    asked = [entry for entry in entries if entry["event"] == "asked"]
    assert all(entry["via"] == "tls" for entry in asked)
    assert [(entry["who"], entry["path"]) for entry in asked] == [
        *[("CN:controller", f"/v1/{kind}") for kind in ("migrate", "rollback", "migrate", "rollback")],
        *[("CN:dashboard-1", "/v1/migrate")] * 2,
    ]
    answers = {entry["id"]: entry for entry in entries if entry["event"] == "answered"}
    assert [answers[entry["id"]]["status"] for entry in asked] == [202, 202, 202, 202, 403, 403]
    assert pair.server.path(AUDIT).stat().st_mode & 0o777 == 0o600


def a_certificate_is_exchanged(pair: Pair) -> None:
    """On disk, by the same commands; the agent is not restarted."""
    process = pair.server.show(AGENT, "MainPID")["MainPID"]
    old = presented(pair)
    shell(pair.controller, "mv n1.crt n1-old.crt")
    remote.issue(pair.controller, "n1", "subjectAltName=DNS:n1.example.org")
    remote.hand_over(pair.controller, pair.server, "n1.crt", "n1.key")
    for command in remote.server_files()[2:]:
        shell(pair.server, command)
    pair.server.wait_for(lambda: presented(pair) not in ("", old), what="the new certificate is in force")
    assert presented(pair) == serial(pair.controller, "n1.crt") != serial(pair.controller, "n1-old.crt")
    assert pair.curl("controller", "GET", "/v1/status")[0] == 200
    assert pair.server.show(AGENT, "MainPID")["MainPID"] == process


def presented(pair: Pair) -> str:
    """The serial number of the certificate the agent shows."""
    address = remote.url(pair.server).removeprefix("https://")
    show = f"openssl s_client -connect {address} -CAfile ca.crt </dev/null 2>/dev/null | openssl x509 -noout -serial"
    return pair.controller.exec(["sh", "-c", f"cd /root; {show}"], check=False).stdout.strip()


def serial(node: Node, name: str) -> str:
    return shell(node, f"openssl x509 -noout -serial -in {name}").strip()


def records_of(node: Node) -> list[Any]:
    return list(node.path(f"{STATE}/operations").glob("*/record.json"))
