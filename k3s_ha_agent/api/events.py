"""``/v1/operations/{id}/events``: server-sent events that a caller can leave and come back to.

The format is the one of the HTML standard ("Server-sent events"). Progress is not kept by the
agent, so it carries no ``id:`` field: the id a caller comes back with is always one of a kept event,
also after the agent was restarted.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import structlog
from aiohttp import web

from k3s_ha_agent.api import requests
from k3s_ha_agent.api.access import Caller
from k3s_ha_agent.api.manager import OperationManager
from k3s_ha_agent.api.service import LOOK_AGAIN, Service, gone
from k3s_ha_agent.api.view import show
from k3s_ha_agent.model import Event

LAST_EVENT = 2.0
"""Seconds of silence after which the events of a finished operation are over, even without the last."""
HEADERS = {"Content-Type": "text/event-stream; charset=utf-8", "X-Accel-Buffering": "no"}

log = structlog.get_logger("k3s_ha_agent.api")


def encode(event: Event) -> bytes:
    """One event on the wire."""
    identity = "" if event.type == "progress" else f"id: {event.id}\n"
    return f"{identity}event: {event.type}\ndata: {json.dumps(show(event))}\n\n".encode()


class EventCalls:
    def __init__(self, manager: OperationManager, service: Service) -> None:
        self._manager = manager
        self._service = service

    async def stream(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        operation = self._manager.get(request.match_info["id"])
        after = requests.last_event_id(request)
        if request.method == "HEAD":
            return web.Response(headers=HEADERS)
        with self._service.long_call():
            response = web.StreamResponse(headers=HEADERS)
            # A stream that ends early ends with its connection, and the caller knows beforehand.
            response.force_close()
            await response.prepare(request)
            try:
                await self._send(b"retry: 1000\n\n", response)
                await self._relay(operation.id, after, request, response)
            except (ConnectionError, TimeoutError):
                log.debug("A caller stopped reading the events of an operation.", operation=operation.id)
                # What it did not read is not waited for either.
                if request.transport is not None:
                    request.transport.abort()
            except Exception:
                # The answer has begun and cannot become a problem document any more.
                log.exception("The events of an operation could not be sent; this is a bug.", operation=operation.id)
            return response

    async def _relay(self, operation_id: str, after: int, request: web.Request, response: web.StreamResponse) -> None:
        """Send events until they end, the caller goes, or the agent stops."""
        events = self._manager.events(operation_id, after)
        clock = asyncio.get_running_loop().time
        keep_alive = self._service.limits.keep_alive
        last_sent = clock()
        coming: asyncio.Task[Event] | None = None
        try:
            while not gone(request) and not self._service.closing:
                coming = coming or asyncio.ensure_future(_next(events))
                await asyncio.wait({coming}, timeout=min(LOOK_AGAIN, keep_alive))
                if coming.done():
                    try:
                        event = coming.result()
                    except StopAsyncIteration:
                        return
                    finally:
                        coming = None
                    await self._send(encode(event), response)
                    last_sent = clock()
                elif self._over(operation_id, clock() - last_sent):
                    return
                elif clock() - last_sent >= keep_alive:
                    await self._send(b": keep-alive\n\n", response)
                    last_sent = clock()
        finally:
            if coming is not None:
                coming.cancel()
                await asyncio.wait({coming})
            close = getattr(events, "aclose", None)
            if close is not None:
                await close()

    def _over(self, operation_id: str, silence: float) -> bool:
        """True when nothing can come any more: the rescue ends an operation without telling an event."""
        return silence >= LAST_EVENT and self._manager.get(operation_id).outcome is not None

    async def _send(self, data: bytes, response: web.StreamResponse) -> None:
        async with asyncio.timeout(self._service.limits.write_timeout):
            await response.write(data)


async def _next(events: AsyncIterator[Event]) -> Event:
    return await anext(events)
