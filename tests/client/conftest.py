"""Clients of the real API: on its socket, and through a line that can be cut."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from k3s_ha_agent.client import AgentClient, Endpoint, unix_socket
from tests.api.conftest import rundir, start
from tests.unit.ctl.conftest import Scene, scene

__all__ = ["rundir", "scene", "start"]


class Line:
    """A TCP port in front of an agent's socket: TLS ends here, and here answers get lost."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self.port = 0
        self.heads: list[str] = []
        """The first line and headers of every question on a connection of its own."""
        self.lose_answers = 0
        """So many answers are not delivered: the agent was asked, and the connection breaks."""
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, tls: ssl.SSLContext | None = None) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, ssl=tls)
        self.port = self._server.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        """Nobody gets through any more, and nobody stays connected."""
        if self._server is not None:
            self._server.close()
            for task in set(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            self.heads.append(head.decode())
            up_reader, up_writer = await asyncio.open_unix_connection(str(self.target))
            up_writer.write(head)
            lose, self.lose_answers = self.lose_answers > 0, max(0, self.lose_answers - 1)
            sending = asyncio.ensure_future(_copy(reader, up_writer))
            try:
                if lose:
                    await up_reader.read(1)  # it has been heard
                else:
                    await _copy(up_reader, writer)
            finally:
                sending.cancel()
                up_writer.transport.abort()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.transport.abort()
            self._tasks.discard(task)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()


@pytest.fixture
async def make_client() -> AsyncIterator[Callable[..., AgentClient]]:
    """Makes clients that are closed at the end."""
    async with contextlib.AsyncExitStack() as stack:

        def make(where: Path | Endpoint, patience: float = 60.0) -> AgentClient:
            client = AgentClient(unix_socket(where) if isinstance(where, Path) else where, patience=patience)
            stack.push_async_callback(client.close)
            return client

        yield make


@pytest.fixture
async def line() -> AsyncIterator[Callable[..., Awaitable[Line]]]:
    """Makes lines to a socket; all cut at the end."""
    made: list[Line] = []

    async def make(target: Path, tls: ssl.SSLContext | None = None) -> Line:
        made.append(Line(target))
        await made[-1].start(tls)
        return made[-1]

    yield make
    for one in made:
        await one.cut()


MakeClient = Callable[..., AgentClient]
MakeLine = Callable[..., Awaitable[Line]]
MakeScene = Scene
