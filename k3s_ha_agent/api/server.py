"""The API as one application, and the server that brings it to the unix socket."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from pathlib import Path

import structlog
from aiohttp import web

from k3s_ha_agent.api import problems
from k3s_ha_agent.api.access import Caller, identify, require
from k3s_ha_agent.api.manager import OperationManager
from k3s_ha_agent.api.routes import Route, table
from k3s_ha_agent.api.service import Limits, Service
from k3s_ha_agent.api.unix_socket import UnixSocket, open_socket
from k3s_ha_agent.errors import AgentError

Next = Callable[[web.Request], Awaitable[web.StreamResponse]]
log = structlog.get_logger("k3s_ha_agent.api")


class ApiServer:
    """Serves the API on a unix socket.

    ``ready`` says whether the journal has been read; until then only health and metrics answer.
    """

    def __init__(
        self,
        manager: OperationManager,
        *,
        socket_path: Path,
        socket_group: str,
        ready: Callable[[], bool],
        limits: Limits | None = None,
    ) -> None:
        self.service = Service(ready, limits or Limits())
        self.routes = table(manager, self.service)
        self._socket_path = socket_path
        self._socket_group = socket_group
        self._socket: UnixSocket | None = None
        self._runner: web.AppRunner | None = None
        self._handling: set[asyncio.Task[object]] = set()

    async def start(self) -> None:
        """Listen. Raises as ``open_socket``."""
        self._socket = await asyncio.to_thread(open_socket, self._socket_path, self._socket_group)
        # A compressed body is refused, so nothing needs to be unpacked before that.
        runner = web.AppRunner(self._application(), access_log=None, auto_decompress=False, handle_signals=False)
        self._runner = runner
        try:
            await runner.setup()
            await web.SockSite(runner, self._socket.listening).start()
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
        if self._handling:
            await asyncio.wait(set(self._handling), timeout=grace)
        for task in self._handling:
            task.cancel()
        await self.service.settled(grace)
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
        await asyncio.to_thread(self._socket.close)

    def _application(self) -> web.Application:
        app = web.Application(middlewares=[self._answer])
        app.on_response_prepare.append(_common_headers)
        for route in self.routes:
            app.router.add_route(route.method, route.path, self._guarded(route))
            if route.method == "GET":
                app.router.add_route("HEAD", route.path, self._guarded(route))
        return app

    def _guarded(self, route: Route) -> Next:
        """The handler behind its door: who is asking, may they, is the agent ready."""

        async def guarded(request: web.Request) -> web.StreamResponse:
            caller = identify(request, None if self._socket is None else self._socket.gid)
            try:
                require(caller, route.role)
                if route.journal:
                    self.service.require_journal()
                response = await route.handler(request, caller)
            except AgentError as error:
                if route.method != "GET":
                    _say(request, caller, error.status)
                raise
            if route.method != "GET":
                _say(request, caller, response.status)
            return response

        return guarded

    @web.middleware
    async def _answer(self, request: web.Request, handler: Next) -> web.StreamResponse:
        """Turns whatever a handler raises into a problem document."""
        task = asyncio.current_task()
        if task is not None:
            self._handling.add(task)
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
            log.exception(f"{request.method} {request.path} met an unexpected error; this is a bug.", incident=incident)
            return problems.response(problems.bug(incident), request.path)
        finally:
            if task is not None:
                self._handling.discard(task)


async def _common_headers(request: web.Request, response: web.StreamResponse) -> None:
    response.headers["Server"] = "k3s-ha-agent"
    response.headers.setdefault("Cache-Control", "no-store")


def _say(request: web.Request, caller: Caller, status: int) -> None:
    log.info(f"{request.method} {request.path} by {caller.name}: {status}.", pid=caller.pid, status=status)
