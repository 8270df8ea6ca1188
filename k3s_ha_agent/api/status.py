"""What this server is: ``/v1/status``, ``/v1/preflight``, ``/v1/members``, ``/v1/backups``,
``/v1/openapi.json``, health."""

from __future__ import annotations

import asyncio

from aiohttp import web

from k3s_ha_agent import __version__
from k3s_ha_agent.api import requests
from k3s_ha_agent.api.access import Caller
from k3s_ha_agent.api.contract import Contract
from k3s_ha_agent.api.manager import OperationManager
from k3s_ha_agent.api.service import Service
from k3s_ha_agent.api.view import show, summary
from k3s_ha_agent.model import CheckStatus, Operation


class StatusCalls:
    def __init__(self, manager: OperationManager, service: Service) -> None:
        self._manager = manager
        self._service = service
        self._contract = Contract()

    async def status(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        node, cluster = await asyncio.gather(self._manager.status(), self._manager.members())
        finished = [o for o in self._manager.list() if o.outcome is not None]
        return web.json_response(
            {
                "agent": {"version": __version__},
                "node": show(node),
                "cluster": show(cluster),
                "running_operation": _summary_or_none(self._manager.running()),
                "last_operation": _summary_or_none(finished[0] if finished else None),
            }
        )

    async def preflight(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """200 whatever the checks found: the question was answered. ``ok`` is the verdict."""
        kind = requests.preflight_kind(request)
        checks = await self._manager.preflight(kind)
        ok = all(check.status is not CheckStatus.REFUSED for check in checks)
        return web.json_response({"for": kind.value, "ok": ok, "checks": [show(check) for check in checks]})

    async def members(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """200 also where there is no cluster: ``sentence`` says why."""
        return web.json_response(show(await self._manager.members()))

    async def backups(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        return web.json_response({"backups": [show(backup) for backup in await self._manager.backups()]})

    async def backup(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        verify = requests.flag(request, "verify")
        return web.json_response(show(await self._manager.backup(request.match_info["id"], verify=verify)))

    async def remove_backup(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """200 with what it was."""
        work = self._manager.remove_backup(request.match_info["id"])
        return web.json_response(show(await self._service.unbroken(work)))

    async def openapi(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        return web.Response(body=await self._contract.as_json(), content_type="application/json")

    async def livez(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """200 while the agent answers at all."""
        return web.Response(text="ok\n")

    async def readyz(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """200 once the journal is read, 503 before."""
        self._service.require_journal()
        return web.Response(text="ok\n")


def _summary_or_none(operation: Operation | None) -> dict[str, object] | None:
    return None if operation is None else summary(operation)
