"""Every path of the API in one table, with what it takes to call it."""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable

from aiohttp import web

from k3s_ha_agent.api.access import Caller, Role
from k3s_ha_agent.api.events import EventCalls
from k3s_ha_agent.api.manager import OperationManager
from k3s_ha_agent.api.metrics import MetricsCalls
from k3s_ha_agent.api.operations import OperationCalls
from k3s_ha_agent.api.service import Service
from k3s_ha_agent.api.status import StatusCalls

Handler = Callable[[web.Request, Caller], Awaitable[web.StreamResponse]]

ID = "{id:[A-Za-z0-9][A-Za-z0-9_.-]{0,127}}"
OPERATION = f"/v1/operations/{ID}"
BACKUP = f"/v1/backups/{ID}"
"""An id is one name, whatever is asked for: it never leads out of a directory."""


@dataclasses.dataclass(frozen=True, slots=True)
class Route:
    """``GET`` routes answer ``HEAD``, too. ``journal``: only once the journal has been read."""

    method: str
    path: str
    role: Role
    journal: bool
    handler: Handler


def table(manager: OperationManager, service: Service) -> tuple[Route, ...]:
    operations = OperationCalls(manager, service)
    events = EventCalls(manager, service)
    status = StatusCalls(manager, service)
    metrics = MetricsCalls(manager, service)
    return (
        Route("POST", "/v1/migrate", Role.ADMIN, True, operations.migrate),
        Route("POST", "/v1/join", Role.ADMIN, True, operations.join),
        Route("POST", "/v1/rollback", Role.ADMIN, True, operations.rollback),
        Route("GET", "/v1/operations", Role.READ, True, operations.list),
        Route("GET", OPERATION, Role.READ, True, operations.get),
        Route("GET", f"{OPERATION}/wait", Role.READ, True, operations.wait),
        Route("GET", f"{OPERATION}/events", Role.READ, True, events.stream),
        Route("POST", f"{OPERATION}/abort", Role.ADMIN, True, operations.abort),
        Route("GET", "/v1/status", Role.READ, True, status.status),
        Route("GET", "/v1/preflight", Role.READ, True, status.preflight),
        Route("GET", "/v1/members", Role.READ, True, status.members),
        Route("GET", "/v1/backups", Role.READ, True, status.backups),
        Route("GET", BACKUP, Role.READ, True, status.backup),
        Route("DELETE", BACKUP, Role.ADMIN, True, status.remove_backup),
        Route("GET", "/v1/openapi.json", Role.READ, False, status.openapi),
        Route("GET", "/livez", Role.ANYONE, False, status.livez),
        Route("GET", "/readyz", Role.ANYONE, False, status.readyz),
        Route("GET", "/metrics", Role.METRICS, False, metrics.metrics),
    )
