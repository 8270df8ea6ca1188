"""A cable between a client and a port of an agent: it carries bytes, knows nothing of them, and can be cut."""

from __future__ import annotations

import asyncio


class Cable:
    """``port`` is this end. ``carried``: bytes that went to the agent, over all connections."""

    def __init__(self, port: int) -> None:
        self._target = port
        self.port = 0
        self.carried = 0
        self.connections = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def plug_in(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        """Nobody gets through any more, and nobody stays connected."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for task in set(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        try:
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._target)
            sending = asyncio.ensure_future(self._send(reader, up_writer))
            try:
                while data := await up_reader.read(65536):
                    writer.write(data)
                    await writer.drain()
            finally:
                sending.cancel()
                up_writer.transport.abort()
        except OSError:
            pass
        finally:
            writer.transport.abort()
            self._tasks.discard(task)

    async def _send(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            self.carried += len(data)
            writer.write(data)
            await writer.drain()
