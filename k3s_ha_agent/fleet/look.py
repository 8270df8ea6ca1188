"""Asking the agents of a cluster what they are."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping

from k3s_ha_agent.client import AgentClient, Endpoint
from k3s_ha_agent.errors import AgentError
from k3s_ha_agent.fleet.assess import Seen
from k3s_ha_agent.fleet.configuration import Cluster, Server

Clients = Mapping[str, AgentClient]
"""The client of each server of one cluster, by name."""
Endpoints = Mapping[tuple[str, str], Endpoint]
MOST_OPERATIONS = 1000
"""As many as an agent lists; the number of an attempt is counted from them."""


@contextlib.asynccontextmanager
async def clients_of(cluster: Cluster, endpoints: Endpoints, patience: float) -> AsyncIterator[Clients]:
    """Clients that are closed at the end."""
    clients = {s.name: AgentClient(endpoints[cluster.name, s.name], patience=patience) for s in cluster.servers}
    try:
        yield clients
    finally:
        for client in clients.values():
            await client.close()


async def look(cluster: Cluster, clients: Clients) -> list[Seen]:
    """What every server says now, in their order."""
    return list(await asyncio.gather(*(_look(server, clients[server.name]) for server in cluster.servers)))


async def _look(server: Server, client: AgentClient) -> Seen:
    try:
        operations = await client.operations(limit=MOST_OPERATIONS)
        return Seen(server, await client.status(), operations)
    except AgentError as error:
        return Seen(server, error=error)
