"""What can be asked to be done: the bodies of ``/v1/migrate``, ``/v1/join`` and ``/v1/rollback``.

Only what was said is sent; what was not said is the agent's to decide. Durations are seconds here.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

from k3s_ha_agent.durations import format_duration
from k3s_ha_agent.model import Kind


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MigrateRequest:
    kind: ClassVar[Kind] = Kind.MIGRATE
    method: str | None = None
    timeout: float | None = None
    stability: float | None = None
    accept_slow_disk: bool | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class JoinRequest:
    kind: ClassVar[Kind] = Kind.JOIN
    server: str
    """``https://host:6443`` of a server of the cluster."""
    token_file: str | None = None
    """A path on the joining server. Either this or ``token``."""
    token: str | None = dataclasses.field(default=None, repr=False)
    """Sent over a unix socket or TLS only."""
    on_conflict: str | None = None
    """``refuse`` or ``wait``, while another server joins."""
    timeout: float | None = None
    stability: float | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RollbackRequest:
    kind: ClassVar[Kind] = Kind.ROLLBACK
    writes: str | None = None
    """``keep`` or ``discard``."""
    confirm_lost_writes: bool | None = None
    timeout: float | None = None
    stability: float | None = None


Request = MigrateRequest | JoinRequest | RollbackRequest


def body(request: Request) -> dict[str, Any]:
    """The JSON body of a request."""
    said: dict[str, Any] = {}
    for field in dataclasses.fields(request):
        value = getattr(request, field.name)
        if value is not None:
            said[field.name] = format_duration(value) if field.name in ("timeout", "stability") else value
    return said
