"""No agent, one that is starting, one that goes away while it is watched, one that refuses."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable

import pytest

from tests.unit.ctl.conftest import LIMIT, ROOT, Scene, environment

Agent = Callable[..., Scene]


@pytest.mark.parametrize("left", [False, True], ids=["no socket", "socket of a dead agent"])
def test_unreachable(scene: Scene, left: bool) -> None:
    if left:
        scene.start()
        scene.stop(signal.SIGKILL)
    for arguments in (["status"], ["migrate"], ["watch", "op-1"], ["abort", "op-1"]):
        result = scene.run(*arguments)
        assert result.code == 7
        assert "systemctl status k3s-ha-agent" in result.err
    assert scene.run("status", "-o", "json").json["code"] == "agent-unreachable"


def test_starting(scene: Scene) -> None:
    scene.start("--not-ready-until", str(scene.directory / "ready"))
    assert scene.run("status").code == 7
    assert scene.run("migrate").code == 7
    (scene.directory / "ready").touch()
    assert scene.run("status").code == 0


def test_not_allowed(agent: Agent) -> None:
    scene = agent()
    # The sources may lie where only root can read them: the command is loaded first, then given up.
    program = (
        "import os, sys\n"
        "from k3s_ha_agent.ctl import main\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        f"sys.exit(main.main(['--socket', '{scene.socket}', *sys.argv[1:]]))"
    )

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", program, *arguments]
        return subprocess.run(command, env=environment(), cwd=ROOT, capture_output=True, text=True, timeout=LIMIT)

    done = run("status")
    assert done.returncode == 1
    assert "may not open" in done.stderr
    assert "sudo" in done.stderr
    scene.socket.chmod(0o666)
    assert run("status").returncode == 0
    done = run("migrate")
    assert done.returncode == 1
    assert "uid 65534 may not change anything" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "stopped"])
def test_the_agent_is_restarted_while_watched(scene: Scene, number: int) -> None:
    scene.start(hold_at="start-k3s")
    watching = scene.watch("migrate")
    watching.until("start-k3s doing")
    scene.stop(number)
    watching.until("the agent is away")
    scene.start("--not-ready-until", str(scene.directory / "ready"), hold_at="prove", fail_in="prove")
    (scene.directory / "ready").touch()
    watching.until("the agent is back")
    watching.until("prove doing")
    scene.release()
    result = watching.end()
    assert result.code == 3
    assert "keys-equal  FALSE" in result.out
    # Everything is said once, although the second agent gives ids of events of the first again.
    for line in ("save-pre-image doing", "prove failed", "Undoing the operation"):
        assert result.out.count(line) == 1, line


def test_the_agent_stays_away(scene: Scene) -> None:
    scene.start(hold_at="start-k3s")
    watching = scene.watch("migrate", "--reconnect", "1s")
    watching.until("start-k3s doing")
    scene.stop(signal.SIGKILL)
    result = watching.end()
    assert result.code == 7
    assert "The operation is not lost" in result.err
    assert f"then: k3s-ha-agentctl --socket {scene.socket} watch op-1" in result.err


def test_interrupted(agent: Agent) -> None:
    scene = agent(hold_at="start-k3s")
    watching = scene.watch("migrate")
    watching.until("start-k3s doing")
    watching.process.send_signal(signal.SIGINT)
    result = watching.end()
    assert result.code == 130
    assert result.err.splitlines() == [
        "Stopped watching; the migrate goes on.",
        f"  Watch it again: k3s-ha-agentctl --socket {scene.socket} watch op-1",
        f"  Abort it:       k3s-ha-agentctl --socket {scene.socket} abort op-1",
    ]
    assert not scene.run("operations", "op-1", "-o", "json").json["abort_requested"]
    scene.release()
    assert scene.run("watch").code == 0


@pytest.mark.parametrize("reply", [b"", b"HTTP/1.1 202 Accepted\r\nContent-Length: 90\r\n\r\n{", b"SSH-2.0-x\r\n"])
def test_an_answer_that_is_lost(scene: Scene, reply: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(scene.socket))
        listening.listen()

        def serve() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(reply)

        thread = threading.Thread(target=serve)
        thread.start()
        result = scene.run("migrate")
        thread.join(LIMIT)
    assert result.code == 7
    assert "Whether the migrate began is not known." in result.err
    assert result.err.endswith(f"next: See: k3s-ha-agentctl --socket {scene.socket} operations\n")
