"""A running API on a real unix socket, and callers of several kinds."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from k3s_ha_agent.api.server import ApiServer
from k3s_ha_agent.api.service import Limits
from k3s_ha_agent.settings import Settings
from tests.api import contract
from tests.api.memory_manager import MemoryManager, Play

GROUP = "daemon"
"""A group every distribution has; stands for k3s-ha."""

ASK = """
import http.client, json, socket, sys
path, method, target, body = sys.argv[1:5]
connection = http.client.HTTPConnection("localhost")
connection.sock = socket.socket(socket.AF_UNIX)
try:
    connection.sock.connect(path)
except OSError as error:
    print(json.dumps([error.errno, None]))
    raise SystemExit
connection.request(method, target, body or None, {"Content-Type": "application/json"} if body else {})
answer = connection.getresponse()
print(json.dumps([answer.status, answer.read().decode()]))
"""


@pytest.fixture
def rundir() -> Iterator[Path]:
    """A directory other users can look into, with a path short enough for a socket."""
    path = Path(tempfile.mkdtemp(prefix="k3sha-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@dataclasses.dataclass
class Running:
    """The API as it runs in a test."""

    server: ApiServer
    manager: MemoryManager
    path: Path
    session: aiohttp.ClientSession

    async def ask(self, method: str, target: str, **options: Any) -> tuple[int, Any, aiohttp.ClientResponse]:
        """Status, the body as JSON (None when it is not) and the response."""
        async with self.session.request(method, f"http://localhost{target}", **options) as response:
            text = await response.text()
            is_json = response.content_type in ("application/json", "application/problem+json")
            body = json.loads(text) if is_json and text else text
            contract.check(method, target, response.status, response.headers, response.content_type, body)
            return response.status, body, response

    async def begin(self, kind: str = "migrate", **body: Any) -> str:
        status, operation, _ = await self.ask("POST", f"/v1/{kind}", json=body)
        assert status == 202, operation
        return str(operation["id"])


Start = Callable[..., Any]


@pytest.fixture
async def start(rundir: Path) -> AsyncIterator[Start]:
    """Starts the API; everything is stopped at the end."""
    running: list[Running] = []

    async def begin(
        play: Play | None = None,
        *,
        group: str = GROUP,
        ready: Callable[[], bool] = lambda: True,
        limits: Limits | None = None,
        settings: Settings | None = None,
    ) -> Running:
        manager = MemoryManager(play)
        path = rundir / "api.sock"
        server = ApiServer(
            manager,
            socket_path=path,
            socket_group=group,
            ready=ready,
            audit_log=path.with_name("audit.jsonl"),
            settings=settings,
            limits=limits,
        )
        await server.start()
        session = aiohttp.ClientSession(connector=aiohttp.UnixConnector(path=str(path)))
        running.append(Running(server, manager, path, session))
        return running[-1]

    yield begin
    for one in running:
        await one.session.close()
        await one.server.stop(grace=1)
        await one.manager.stop()


def ask_as(
    path: Path, method: str, target: str, *, uid: int, gid: int, groups: tuple[int, ...] = (), body: str = ""
) -> tuple[int, str | None]:
    """The same question as another user, in a process of its own: status and body, or errno and None."""
    assert os.geteuid() == 0, "these tests ask as other users: run them as root"
    done = subprocess.run(
        [os.path.realpath(sys.executable), "-I", "-S", "-c", ASK, str(path), method, target, body],
        user=uid,
        group=gid,
        extra_groups=groups,
        cwd="/",
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    status, text = json.loads(done.stdout)
    return status, text
