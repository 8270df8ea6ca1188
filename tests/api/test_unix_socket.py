"""The socket file: its mode, a dead agent's, a living one's."""

from __future__ import annotations

import fcntl
import grp
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from k3s_ha_agent.api.server import ApiServer
from k3s_ha_agent.api.unix_socket import open_socket
from k3s_ha_agent.errors import ConfigurationError, Conflict
from tests.api.conftest import GROUP, Start
from tests.api.memory_manager import MemoryManager

AGENT = Path(__file__).with_name("agent.py")
ROOT = AGENT.parents[2]


@pytest.fixture
def other_agent(rundir: Path) -> Iterator[subprocess.Popen[str]]:
    """Another agent, listening."""
    process = subprocess.Popen(
        [sys.executable, str(AGENT), "--socket", str(rundir / "api.sock"), "--directory", str(rundir)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": str(ROOT)},
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "listening\n"
        yield process
    finally:
        process.kill()
        process.communicate(timeout=60)


async def test_owner_and_mode(start: Start) -> None:
    api = await start()
    status = api.path.stat()
    assert stat.S_ISSOCK(status.st_mode)
    assert status.st_mode & 0o7777 == 0o660
    assert (status.st_uid, status.st_gid) == (0, grp.getgrnam(GROUP).gr_gid)
    assert sorted(p.name for p in api.path.parent.iterdir()) == [".api.sock.lock", "api.sock"]


async def test_stopping_takes_the_name_away(start: Start) -> None:
    api = await start()
    await api.server.stop()
    assert not api.path.exists()


async def test_the_socket_of_a_killed_agent_is_replaced(
    rundir: Path, start: Start, other_agent: subprocess.Popen[str]
) -> None:
    other_agent.kill()
    other_agent.wait(timeout=60)
    inode = (rundir / "api.sock").stat().st_ino
    api = await start()
    assert api.path.stat().st_ino != inode
    assert (await api.ask("GET", "/livez"))[0] == 200


async def test_the_socket_of_a_living_agent_is_not_taken(
    rundir: Path, start: Start, other_agent: subprocess.Popen[str]
) -> None:
    with pytest.raises(Conflict, match="Another agent"):
        await start()
    # It still answers, under the name.
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(rundir / "api.sock"))
        client.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert client.makefile("rb").readline() == b"HTTP/1.1 200 OK\r\n"
    assert other_agent.poll() is None


def test_a_listener_that_holds_no_lock_is_not_replaced(rundir: Path) -> None:
    path = rundir / "api.sock"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen(1)
        inode = path.stat().st_ino
        with pytest.raises(Conflict):
            open_socket(path, GROUP)
        assert path.stat().st_ino == inode
    # Now it is dead, and the refusal above has left no lock behind.
    open_socket(path, GROUP).close()


def test_an_agent_that_is_just_starting_is_not_overtaken(rundir: Path) -> None:
    with (rundir / ".api.sock.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(Conflict):
            open_socket(rundir / "api.sock", GROUP)
    open_socket(rundir / "api.sock", GROUP).close()


def test_a_listener_too_busy_to_answer_is_alive(rundir: Path) -> None:
    path = rundir / "api.sock"
    with socket.socket(socket.AF_UNIX) as other, socket.socket(socket.AF_UNIX) as first:
        other.bind(str(path))
        other.listen(0)
        first.connect(str(path))
        with pytest.raises(Conflict):
            open_socket(path, GROUP)


def test_a_file_that_is_no_socket_is_left_alone(rundir: Path) -> None:
    path = rundir / "api.sock"
    path.write_text("somebody's")
    with pytest.raises(ConfigurationError, match="no socket"):
        open_socket(path, GROUP)
    assert path.read_text() == "somebody's"


def test_a_link_is_not_followed(rundir: Path) -> None:
    (rundir / "api.sock").symlink_to("/nonexistent")
    with pytest.raises(ConfigurationError):
        open_socket(rundir / "api.sock", GROUP)


def test_a_path_that_is_too_long(rundir: Path) -> None:
    with pytest.raises(ConfigurationError, match="too long"):
        open_socket(rundir / ("x" * 120) / "api.sock", GROUP)
    assert not list(rundir.iterdir())


def test_what_a_killed_start_left_is_no_hindrance(rundir: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(rundir / ".api.sock.new"))
    opened = open_socket(rundir / "api.sock", GROUP)
    opened.close()
    assert [p.name for p in rundir.iterdir()] == [".api.sock.lock"]


def test_closing_leaves_the_socket_of_another(rundir: Path) -> None:
    path = rundir / "api.sock"
    ours = open_socket(path, GROUP)
    path.unlink()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        ours.close()
        ours.close()
        assert path.exists()


async def test_a_start_that_fails_leaves_nothing(rundir: Path) -> None:
    (rundir / "api.sock").write_text("")
    server = ApiServer(
        MemoryManager(),
        socket_path=rundir / "api.sock",
        socket_group=GROUP,
        ready=lambda: True,
        audit_log=rundir / "audit.jsonl",
    )
    with pytest.raises(ConfigurationError):
        await server.start()
    await server.stop()
    (rundir / "api.sock").unlink()
    await server.start()
    await server.stop()
    assert [p.name for p in rundir.iterdir()] == [".api.sock.lock"]
