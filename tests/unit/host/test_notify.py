from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from k3s_ha_agent.host import notify


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, dict[str, str]]]:
    name = str(tmp_path / "notify") if request.param == "path" else f"@k3s-ha-agent-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(name if name[0] == "/" else "\0" + name[1:])
        receiver.settimeout(10)
        yield receiver, {"NOTIFY_SOCKET": name}


def test_messages_arrive(manager: tuple[socket.socket, dict[str, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    receiver, environment = manager
    monkeypatch.setenv("NOTIFY_SOCKET", environment["NOTIFY_SOCKET"])
    for send, expected in (
        (notify.ready, b"READY=1"),
        (notify.stopping, b"STOPPING=1"),
        (notify.watchdog, b"WATCHDOG=1"),
        (lambda: notify.status("two\nlines ü"), "STATUS=two lines ü".encode()),
        (lambda: notify.extend_timeout(1.5), b"EXTEND_TIMEOUT_USEC=1500000"),
    ):
        assert send()
        assert receiver.recv(4096) == expected


def test_without_a_manager(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert not notify.ready()


def test_manager_that_is_gone_or_full(tmp_path: Path) -> None:
    environment = {"NOTIFY_SOCKET": str(tmp_path / "none")}
    assert not notify.send("READY=1", environment)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(tmp_path / "full"))
        environment = {"NOTIFY_SOCKET": str(tmp_path / "full")}
        sent = [notify.send("WATCHDOG=1", environment) for _ in range(5000)]
        assert sent[0] and not sent[-1], "a full queue is no reason to wait"


def test_address() -> None:
    assert notify.socket_address("") is None
    assert notify.socket_address("/run/x") == "/run/x"
    assert notify.socket_address("@abc") == "\0abc"
    for wrong in ("relative", "@", "vsock:2:1"):
        with pytest.raises(ValueError, match="NOTIFY_SOCKET"):
            notify.socket_address(wrong)


def test_watchdog_interval() -> None:
    assert notify.watchdog_interval({}) is None
    assert notify.watchdog_interval({"WATCHDOG_USEC": "30000000"}) == 30.0
    assert notify.watchdog_interval({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}) == 30.0
    assert notify.watchdog_interval({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}) is None
    assert notify.watchdog_interval({"WATCHDOG_USEC": "0"}) is None
