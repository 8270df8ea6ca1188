"""Accepts connections and hands them to aiohttp, so many at a time, none of them silent for long.

The accept loop is ours and not asyncio's server for three things: the number of connections is exact, also
of those still shaking hands; each connection gets the TLS context in force at that moment; and a
connection knows the door it came in by.
"""

from __future__ import annotations

import asyncio
import contextlib
import http
import json
import socket
import ssl
from collections.abc import Callable
from typing import Protocol

import structlog
from aiohttp import web

from k3s_ha_agent.api import problems
from k3s_ha_agent.api.access import Caller
from k3s_ha_agent.api.service import Limits
from k3s_ha_agent.errors import AgentError, BadRequest, Unavailable

log = structlog.get_logger("k3s_ha_agent.api")


_NO_HTTP_SAID = "The request is not HTTP/1.1 as it should be."
_PARTING = 1.0
"""Seconds for telling a caller that there is no room."""


class Door(Protocol):
    """A way in."""

    def identify(self, request: web.Request, /) -> Caller:
        """Who is asking. Forbidden or Unauthorized when that cannot be told, or is nobody who may ask here."""


class Connection(web.RequestHandler):
    """One connection as aiohttp serves it."""

    __slots__ = ("busy", "door", "last", "on_lost", "spoke", "stale")

    def __init__(self, server: web.Server, door: Door, on_lost: Callable[[Connection], None]) -> None:
        loop = asyncio.get_running_loop()
        # A compressed body is refused, so nothing needs to be unpacked before that.
        super().__init__(server, loop=loop, access_log=None, auto_decompress=False)  # type: ignore[arg-type]
        self.door = door
        self.on_lost = on_lost
        self.busy = 0
        """Requests being answered."""
        self.spoke = False
        """Whether a request has come."""
        self.stale = False
        """Who it is was decided by what has changed since; it ends with the answer it is giving."""
        self.last = loop.time()

    def connection_lost(self, exc: BaseException | None) -> None:
        self.on_lost(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        try:
            super().data_received(data)
        except ValueError as error:
            # aiohttp's parser lets out what it is told of a target like http://[::1
            log.debug("What came is no HTTP.", reason=str(error))
            if self.transport is not None:
                if not self.busy:
                    self.transport.write(_NO_HTTP)
                self.transport.close()

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """What cannot be read as HTTP at all; the connection ends with the answer."""
        if request.writer is not None and request.writer.output_size > 0:
            raise ConnectionError("The answer has begun and cannot become another one.")
        if status >= 500:
            log.error("A request failed below the API; this is a bug.", exc_info=exc)
        else:
            log.debug("What came is no HTTP.", reason=str(message))
        answer = problems.response(BadRequest(_NO_HTTP_SAID), "")
        if status >= 500:
            answer = problems.response(problems.bug("aiohttp.server"), "")
        answer.headers["Server"] = "k3s-ha-agent"
        answer.force_close()
        return answer


class Listener:
    """Takes connections of a listening socket. ``context``: the TLS context for the next one; None is plain."""

    def __init__(
        self,
        listening: socket.socket,
        server: web.Server,
        door: Door,
        limits: Limits,
        context: Callable[[], ssl.SSLContext | None] = lambda: None,
    ) -> None:
        listening.setblocking(False)
        self._listening = listening
        self._server = server
        self._door = door
        self._limits = limits
        self._context = context
        self._connections: set[Connection] = set()
        self._shaking: set[asyncio.Task[None]] = set()
        """Connections not yet handed over, and those being turned away."""
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        self._tasks = [asyncio.create_task(self._accept()), asyncio.create_task(self._sweep())]

    async def stop(self) -> None:
        """Take no more connections; those there are go on. The socket is the caller's to close."""
        tasks = [*self._tasks, *self._shaking]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        self._tasks = []

    def outdate(self) -> None:
        """Who may ask has changed: connections made before end, idle ones now, others with their answer."""
        for connection in list(self._connections):
            connection.stale = True
            if not connection.busy:
                _abort(connection)

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        told = ""
        while True:
            try:
                accepted, _ = await loop.sock_accept(self._listening)
            except OSError as error:
                # Out of file descriptors or memory; the caller may be gone as well. Said once.
                if str(error) != told:
                    log.error(f"A connection could not be accepted: {error}.")
                    told = str(error)
                await asyncio.sleep(0.5)
                continue
            accepted.setblocking(False)
            if len(self._connections) < self._limits.connections:
                connection = Connection(self._server, self._door, self._connections.discard)
                self._connections.add(connection)
                task = asyncio.create_task(self._take(accepted, connection))
            elif len(self._shaking) < 2 * self._limits.connections:
                task = asyncio.create_task(self._turn_away(accepted))
            else:
                accepted.close()
                continue
            self._shaking.add(task)
            task.add_done_callback(self._shaking.discard)

    async def _take(self, accepted: socket.socket, connection: Connection) -> None:
        try:
            context = self._context()
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: connection,
                accepted,
                ssl=context,
                ssl_handshake_timeout=self._limits.first_request if context else None,
            )
        except (OSError, ssl.SSLError) as error:
            self._connections.discard(connection)
            accepted.close()
            reason = getattr(error, "verify_message", "") or getattr(error, "reason", "") or str(error)
            log.info(f"A connection ended before it asked anything: {reason or 'the caller went away'}.")
        except asyncio.CancelledError:
            self._connections.discard(connection)
            accepted.close()
            raise

    async def _turn_away(self, accepted: socket.socket) -> None:
        """Say that there is no room. Closing at once would throw the answer away when the question has come."""
        loop = asyncio.get_running_loop()
        with contextlib.suppress(OSError, TimeoutError), accepted:
            if self._context() is None:
                async with asyncio.timeout(_PARTING):
                    await loop.sock_sendall(accepted, _FULL)
                    accepted.shutdown(socket.SHUT_WR)
                    while await loop.sock_recv(accepted, 65536):
                        pass

    async def _sweep(self) -> None:
        """End connections that keep silent, or send a request so slowly that it never comes."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(min(1.0, self._limits.first_request / 2))
            for connection in list(self._connections):
                allowed = self._limits.idle if connection.spoke else self._limits.first_request
                if not connection.busy and loop.time() - connection.last > allowed:
                    _abort(connection)


def _abort(connection: Connection) -> None:
    # None while hands are still shaken; that has a limit of its own.
    if connection.transport is not None:
        connection.transport.abort()


def _last_words(error: AgentError, *headers: str) -> bytes:
    """An answer on the wire, without aiohttp; the connection ends with it."""
    body = json.dumps(problems.document(error, "")).encode()
    head = (
        f"HTTP/1.1 {error.status} {http.HTTPStatus(error.status).phrase}",
        f"Content-Type: {problems.CONTENT_TYPE}",
        f"Content-Length: {len(body)}",
        *headers,
        "Connection: close",
    )
    return "\r\n".join((*head, "", "")).encode() + body


_FULL = _last_words(
    Unavailable("The agent has too many connections.", next_step="Ask again in some seconds."),
    f"Retry-After: {problems.RETRY_AFTER}",
)
_NO_HTTP = _last_words(BadRequest(_NO_HTTP_SAID))
