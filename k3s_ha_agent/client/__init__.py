"""The agent's API for Python programs: asynchronous, typed, with the errors of ``k3s_ha_agent.errors``.

    async with AgentClient(unix_socket()) as agent:
        begun = await agent.migrate()
        ended = await agent.wait(begun.operation.id)

An agent that is restarted while it is asked is waited for (``patience``); what may have been heard
is sent again only when that cannot begin anything twice.
"""

from __future__ import annotations

from k3s_ha_agent.client.agent import AgentClient
from k3s_ha_agent.client.answers import (
    AgentStatus,
    DryRun,
    OperationSummary,
    Preflight,
    ServerEvent,
    Submitted,
)
from k3s_ha_agent.client.endpoint import DEFAULT_SOCKET, Endpoint, https, loopback, tls_context, unix_socket
from k3s_ha_agent.client.problems import AnswerLost, AnswerUnreadable
from k3s_ha_agent.client.requests import JoinRequest, MigrateRequest, RollbackRequest

__all__ = [
    "DEFAULT_SOCKET",
    "AgentClient",
    "AgentStatus",
    "AnswerLost",
    "AnswerUnreadable",
    "DryRun",
    "Endpoint",
    "JoinRequest",
    "MigrateRequest",
    "OperationSummary",
    "Preflight",
    "RollbackRequest",
    "ServerEvent",
    "Submitted",
    "https",
    "loopback",
    "tls_context",
    "unix_socket",
]
