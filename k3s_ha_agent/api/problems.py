"""Errors as ``application/problem+json`` (RFC 9457): what, why, and what to do next."""

from __future__ import annotations

import http
import json
from typing import Any

from aiohttp import web

from k3s_ha_agent.api.view import show
from k3s_ha_agent.errors import (
    AgentError,
    BadRequest,
    BodyTooLarge,
    MethodNotAllowed,
    NotFound,
    TooManyRequests,
    Unauthorized,
    Unavailable,
)

CONTENT_TYPE = "application/problem+json"
RETRY_AFTER = 2
"""Seconds a caller should wait before it asks an agent again that is starting or busy."""


def document(error: AgentError, instance: str) -> dict[str, Any]:
    """The problem document. Extensions cannot hide the members that every problem has."""
    return {
        **error.extensions,
        "type": f"urn:k3s-ha-agent:problem:{error.code}",
        "code": error.code,
        "title": error.title,
        "status": error.status,
        "detail": error.detail,
        "next_step": error.next_step,
        "instance": instance,
    }


def response(error: AgentError, instance: str) -> web.Response:
    headers = {"Retry-After": str(RETRY_AFTER)} if isinstance(error, Unavailable) else {}
    if isinstance(error, TooManyRequests):
        headers["Retry-After"] = str(error.extensions["retry_after"])
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"
    body = json.dumps(document(error, instance), default=_show_extension)
    return web.Response(text=body, status=error.status, content_type=CONTENT_TYPE, headers=headers)


def _show_extension(value: Any) -> Any:
    """A value in an extension that cannot be shown must not turn this answer into another one."""
    try:
        return show(value)
    except TypeError:
        return f"({type(value).__name__})"


def from_http(error: web.HTTPException, request: web.Request) -> tuple[AgentError, dict[str, str]]:
    """What aiohttp itself refused, in our words, and the headers that belong to it."""
    if isinstance(error, web.HTTPMethodNotAllowed):
        allow = ", ".join(sorted(error.allowed_methods))
        problem = MethodNotAllowed(f"{request.method} does not fit {request.path}.", next_step=f"Use {allow}.")
        return problem, {"Allow": allow}
    if isinstance(error, web.HTTPNotFound):
        return NotFound(
            f"There is no {request.path} here.", next_step="Paths begin with /v1/; README.md lists them."
        ), {}
    if isinstance(error, web.HTTPRequestEntityTooLarge):
        return BodyTooLarge("The request body is too large."), {}
    return BadRequest(f"The request cannot be answered: {http.HTTPStatus(error.status).phrase}."), {}


def bug(incident: str) -> AgentError:
    """The answer to an exception nobody expected. What went wrong is said in the log only."""
    return AgentError(
        "The agent met an error it did not expect; whether anything was done, /v1/operations says.",
        next_step=f"Look for {incident} in `journalctl -u k3s-ha-agent` and report it as a bug.",
        incident=incident,
    )
