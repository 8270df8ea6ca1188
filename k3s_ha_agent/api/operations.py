"""``/v1/migrate``, ``/v1/join``, ``/v1/rollback`` and ``/v1/operations``."""

from __future__ import annotations

import asyncio
from typing import Any

from aiohttp import web

from k3s_ha_agent.api import requests
from k3s_ha_agent.api.access import Caller
from k3s_ha_agent.api.manager import OperationManager
from k3s_ha_agent.api.service import LOOK_AGAIN, Service, gone
from k3s_ha_agent.api.view import show
from k3s_ha_agent.errors import Forbidden, InvalidBody, NotFinishedYet
from k3s_ha_agent.model import Kind, Operation


class OperationCalls:
    """Handlers that begin, show, await and abort operations."""

    def __init__(self, manager: OperationManager, service: Service) -> None:
        self._manager = manager
        self._service = service

    async def migrate(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        return await self._begin(Kind.MIGRATE, request, caller)

    async def join(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        return await self._begin(Kind.JOIN, request, caller)

    async def rollback(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        return await self._begin(Kind.ROLLBACK, request, caller)

    async def _begin(self, kind: Kind, request: web.Request, caller: Caller) -> web.Response:
        requests.refuse_dry_run_in_query(request)
        key = requests.idempotency_key(request)
        body = await requests.read_object(request, timeout=self._service.limits.body_timeout)
        if "token" in body and not caller.confidential:
            raise Forbidden(
                "A token in the body is taken over the unix socket and over TLS only.",
                next_step="Put it into a file on this server and name that: token_file.",
            )
        # Any other value of dry_run is for the manager to refuse, with the rest of the body.
        if body.get("dry_run") is True:
            return web.json_response(show(await self._manager.dry_run(kind, body)))
        operation, replayed = await self._service.unbroken(
            self._manager.submit(kind, body, requested_by=caller.name, idempotency_key=key)
        )
        return _accepted(operation, {"Idempotent-Replayed": "true"} if replayed else {})

    async def list(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        limit = requests.list_limit(request)
        return web.json_response({"operations": [show(o) for o in self._manager.list()[:limit]]})

    async def get(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        return web.json_response(show(self._manager.get(request.match_info["id"])))

    async def wait(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """200 with the finished operation, 504 when the time is over before it finished."""
        timeout = requests.wait_timeout(request)
        operation = self._manager.get(request.match_info["id"])
        clock = asyncio.get_running_loop().time
        until = clock() + timeout
        with self._service.long_call():
            while not gone(request):
                self._service.require_open()
                left = until - clock()
                finished = await self._manager.wait(operation.id, min(LOOK_AGAIN, max(0.0, left)))
                if finished is not None:
                    return web.json_response(show(finished))
                if left <= 0:
                    break
        raise NotFinishedYet(
            f"{operation.kind} {operation.id} is still running.",
            next_step=f"Ask again, or follow /v1/operations/{operation.id}/events.",
            operation=operation.id,
        )

    async def abort(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        body = await requests.read_object(request, timeout=self._service.limits.body_timeout)
        if body:
            raise InvalidBody(f"abort takes no {', '.join(sorted(body))}.", next_step="Send it without a body.")
        operation = await self._service.unbroken(
            self._manager.abort(request.match_info["id"], requested_by=caller.name)
        )
        return _accepted(operation, {})


def _accepted(operation: Operation, headers: dict[str, Any]) -> web.Response:
    headers["Location"] = f"/v1/operations/{operation.id}"
    return web.json_response(show(operation), status=202, headers=headers)
