"""The API as one application, and the server that brings it to the unix socket and to the ports that are set."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import structlog
from aiohttp import web

from k3s_ha_agent.api import problems
from k3s_ha_agent.api.access import Caller, Role, SocketDoor, require
from k3s_ha_agent.api.audit import AuditLog
from k3s_ha_agent.api.limits import Buckets
from k3s_ha_agent.api.listener import Connection, Listener
from k3s_ha_agent.api.manager import OperationManager
from k3s_ha_agent.api.remote import RemoteAccess
from k3s_ha_agent.api.routes import Route, table
from k3s_ha_agent.api.service import Limits, Service
from k3s_ha_agent.api.unix_socket import UnixSocket, open_socket
from k3s_ha_agent.errors import AgentError, Forbidden
from k3s_ha_agent.host.messages import Message
from k3s_ha_agent.settings import Settings

Next = Callable[[web.Request], Awaitable[web.StreamResponse]]
log = structlog.get_logger("k3s_ha_agent.api")


class ApiServer:
    """Serves the API.

    ``ready`` says whether the journal has been read; until then only health and metrics answer.
    ``audit_log`` is the file every change is written to; ``settings`` say where else to listen.
    """

    def __init__(
        self,
        manager: OperationManager,
        *,
        socket_path: Path,
        socket_group: str,
        ready: Callable[[], bool],
        audit_log: Path,
        settings: Settings | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.service = Service(ready, limits or Limits())
        self.routes = table(manager, self.service)
        self._socket_path = socket_path
        self._socket_group = socket_group
        self._socket: UnixSocket | None = None
        self._runner: web.AppRunner | None = None
        self._listener: Listener | None = None
        self._remote = RemoteAccess(settings or Settings())
        self._audit = AuditLog(audit_log)
        self._buckets = Buckets(
            self.service.limits.changes_burst, self.service.limits.changes_per_second, time.monotonic
        )
        self._handling: set[asyncio.Task[object]] = set()

    async def start(self) -> None:
        """Listen. Raises as ``open_socket``."""
        self._socket = await asyncio.to_thread(open_socket, self._socket_path, self._socket_group)
        runner = web.AppRunner(self._application(), handle_signals=False)
        self._runner = runner
        limits = self.service.limits
        try:
            await runner.setup()
            if runner.server is None:
                raise RuntimeError("aiohttp made no server")
            self._listener = Listener(self._socket.listening, runner.server, SocketDoor(self._socket.gid), limits)
            self._listener.start()
            self._remote.start(runner.server, limits)
        except BaseException:
            await self.stop(grace=0)
            raise
        log.info(f"The API listens on {self._socket_path}.", group=self._socket_group, gid=self._socket.gid)

    async def stop(self, *, grace: float = 5.0) -> None:
        """Close the socket, let callers go, and give what they began ``grace`` seconds. Safe to run twice."""
        self.service.closing = True
        if self._socket is None:
            return
        await asyncio.to_thread(self._socket.withdraw)
        await self._remote.stop()
        if self._listener is not None:
            await self._listener.stop()
            self._listener = None
        if self._handling:
            await asyncio.wait(set(self._handling), timeout=grace)
        for task in self._handling:
            task.cancel()
        await self.service.settled(grace)
        if self._runner is not None:
            if self._runner.server is not None:
                # aiohttp ends the connections of its own sites only, and these came by our listeners.
                await self._runner.server.shutdown(grace)
            await self._runner.cleanup()
            self._runner = None
        await asyncio.to_thread(self._socket.close)

    def _application(self) -> web.Application:
        app = web.Application(middlewares=[self._answer])
        app.on_response_prepare.append(_common_headers)
        for route in self.routes:
            for method in ("GET", "HEAD") if route.method == "GET" else (route.method,):
                app.router.add_route(method, route.path, self._guarded(route), expect_handler=_expected)
        return app

    def _guarded(self, route: Route) -> Next:
        """The handler behind its door: who is asking, may they, is the agent ready."""

        async def guarded(request: web.Request) -> web.StreamResponse:
            connection = request.protocol
            if not isinstance(connection, Connection):
                raise Forbidden("It cannot be told who is asking.")
            caller = connection.door.identify(request)
            if route.role is not Role.ADMIN:
                return await self._call(route, request, caller)
            try:
                self._buckets.take(caller.name)
                # To its end, whatever becomes of the caller: an act and its entry in the audit log belong together.
                response = await self.service.unbroken(self._audited(route, request, caller))
            except AgentError as error:
                _say(request, caller, error.status)
                raise
            _say(request, caller, response.status)
            return response

        return guarded

    async def _call(self, route: Route, request: web.Request, caller: Caller) -> web.StreamResponse:
        require(caller, route.role)
        if route.journal:
            self.service.require_journal()
        return await route.handler(request, caller)

    async def _audited(self, route: Route, request: web.Request, caller: Caller) -> web.StreamResponse:
        """A change, between its two entries in the audit log."""
        entry = await self._audit.asked(caller, request.method, request.path)
        try:
            response = await self._call(route, request, caller)
        except AgentError as error:
            operation = error.extensions.get("operation")
            await self._audit.answered(entry, status=error.status, code=error.code, operation=operation)
            raise
        except Exception:
            await self._audit.answered(entry, status=500, code=AgentError.code, operation=None)
            raise
        _, _, operation = response.headers.get("Location", "").rpartition("/")
        await self._audit.answered(entry, status=response.status, code=None, operation=operation or None)
        return response

    @web.middleware
    async def _answer(self, request: web.Request, handler: Next) -> web.StreamResponse:
        """Turns whatever a handler raises into a problem document."""
        task = asyncio.current_task()
        if task is not None:
            self._handling.add(task)
        connection = request.protocol
        if isinstance(connection, Connection):
            connection.spoke = True
            connection.busy += 1
        try:
            self.service.require_open()
            return await handler(request)
        except AgentError as error:
            if error.status in (500, 502):
                log.warning(f"{request.method} {request.path}: {error}", code=error.code)
            return problems.response(error, request.path)
        except web.HTTPException as refused:
            problem, headers = problems.from_http(refused, request)
            response = problems.response(problem, request.path)
            response.headers.update(headers)
            return response
        except Exception:
            incident = secrets.token_hex(6)
            log.exception(
                f"{request.method} {request.path} met an unexpected error; this is a bug.",
                incident=incident,
                message_id=Message.BUG,
            )
            return problems.response(problems.bug(incident), request.path)
        finally:
            if task is not None:
                self._handling.discard(task)
            if isinstance(connection, Connection):
                connection.busy -= 1
                connection.last = asyncio.get_running_loop().time()


async def _expected(request: web.Request) -> None:
    """What else than 100-continue is expected is passed over (RFC 9110, 10.1.1); aiohttp's refusal is plain text."""
    if request.version >= (1, 1) and request.headers.get("Expect", "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0


async def _common_headers(request: web.Request, response: web.StreamResponse) -> None:
    response.headers["Server"] = "k3s-ha-agent"
    response.headers.setdefault("Cache-Control", "no-store")
    if isinstance(request.protocol, Connection) and request.protocol.stale:
        response.force_close()


def _say(request: web.Request, caller: Caller, status: int) -> None:
    log.info(
        f"{request.method} {request.path} by {caller.name}: {status}.",
        pid=caller.pid or None,
        via=caller.via,
        status=status,
        message_id=Message.CHANGE_ASKED,
    )
