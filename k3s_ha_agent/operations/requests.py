"""The bodies of migrate and rollback, validated. Unknown keys are an error: a misspelt safety is none."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from k3s_ha_agent.durations import format_duration, parse_duration
from k3s_ha_agent.errors import InvalidBody, NotImplementedYet
from k3s_ha_agent.model import Kind

LONGEST = 24 * 3600.0
"""Seconds; a longer wait for one server is a mistake in the unit."""


@dataclasses.dataclass(frozen=True, slots=True)
class MigrateRequest:
    method: str = "native"
    timeout: float | None = None
    """Seconds for the whole way forward from the closing of the gate; None: derived from the data."""
    stability: float | None = None
    """Seconds; None: as set in the settings."""
    accept_slow_disk: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class RollbackRequest:
    writes: str = "keep"
    confirm_lost_writes: bool = False
    timeout: float | None = None
    stability: float | None = None


Request = MigrateRequest | RollbackRequest


def parse(kind: Kind, body: Mapping[str, Any]) -> Request:
    """The request of a body. InvalidBody names the key; NotImplementedYet for what this agent cannot do."""
    if kind is Kind.MIGRATE:
        values = _values(kind, body, {"method": str, "timeout": "d", "stability": "d", "accept_slow_disk": bool})
        migrate = MigrateRequest(**values)
        _one_of("method", migrate.method, ("native", "staged"))
        if migrate.method == "staged":
            raise NotImplementedYet(
                'The method "staged" is not built yet.', next_step='Use {"method": "native"}, k3s\'s own conversion.'
            )
        return migrate
    if kind is Kind.ROLLBACK:
        keys = {"writes": str, "confirm_lost_writes": bool, "timeout": "d", "stability": "d"}
        rollback = RollbackRequest(**_values(kind, body, keys))
        _one_of("writes", rollback.writes, ("keep", "discard"))
        if rollback.writes == "keep":
            raise NotImplementedYet(
                'Going back and keeping the writes made since ({"writes": "keep"}, the default) is not built yet.',
                next_step='Use {"writes": "discard"} to put back the SQLite from before the migration.',
            )
        return rollback
    raise NotImplementedYet("Joining a cluster is not built yet.")


def parameters(request: Request) -> dict[str, Any]:
    """The request as the record and the API show it: durations as text, nothing that was not said."""
    shown: dict[str, Any] = {}
    for field in dataclasses.fields(request):
        value = getattr(request, field.name)
        if value is None:
            continue
        is_duration = field.name in ("timeout", "stability")
        shown[field.name] = format_duration(value) if is_duration else value
    return shown


def digest(kind: Kind, body: Mapping[str, Any]) -> str:
    """What tells one request from another under the same Idempotency-Key."""
    text = json.dumps([kind.value, body], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _values(kind: Kind, body: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    values = {}
    for key, value in body.items():
        if key == "dry_run":
            if not isinstance(value, bool):
                raise InvalidBody(f"dry_run must be true or false, not {value!r}.", key=key)
            continue
        if key not in known:
            raise InvalidBody(
                f"{kind} does not know {key!r}.",
                next_step=f"It knows: {', '.join(sorted((*known, 'dry_run')))}.",
                key=key,
            )
        values[key] = _value(key, value, known[key])
    return values


def _value(key: str, value: Any, type_: Any) -> Any:
    if type_ == "d":
        if not isinstance(value, str):
            raise InvalidBody(f'{key} must be a duration like "30s", not {value!r}.', key=key)
        try:
            seconds = parse_duration(value)
        except ValueError as error:
            raise InvalidBody(f"{key}: {error}.", key=key) from error
        if not 0 < seconds <= LONGEST:
            raise InvalidBody(f"{key} must be more than nothing and at most 24h, not {value}.", key=key)
        return seconds
    if not isinstance(value, type_):
        wanted = "true or false" if type_ is bool else "text"
        raise InvalidBody(f"{key} must be {wanted}, not {value!r}.", key=key)
    return value


def _one_of(key: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise InvalidBody(f"{key} must be one of {', '.join(allowed)}, not {value!r}.", key=key)
