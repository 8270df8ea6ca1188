"""The bodies of migrate and rollback, validated. Unknown keys are an error: a misspelt safety is none."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import urllib.parse
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


@dataclasses.dataclass(frozen=True, slots=True)
class JoinRequest:
    server: str = ""
    """``https://host:6443`` of a server of the cluster."""
    token: str | None = dataclasses.field(default=None, repr=False)
    """Never shown, never recorded."""
    token_file: str | None = None
    on_conflict: str = "refuse"
    timeout: float | None = None
    stability: float | None = None


Request = MigrateRequest | RollbackRequest | JoinRequest
SECRET = ("token", "token_file")


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
        return rollback
    keys = dict.fromkeys(("server", "token", "token_file", "on_conflict"), str) | {"timeout": "d", "stability": "d"}
    join = JoinRequest(**_values(kind, body, keys))
    _one_of("on_conflict", join.on_conflict, ("refuse", "wait"))
    if not _is_server(join.server):
        raise InvalidBody(
            'server must be the URL of a server of the cluster, like "https://10.0.0.1:6443".', key="server"
        )
    if (join.token is None) == (join.token_file is None):
        raise InvalidBody(
            "Either token_file (a path on this server) or token must be given.",
            next_step="It is /var/lib/rancher/k3s/server/token of a server of the cluster.",
            key="token_file",
        )
    return dataclasses.replace(join, server=join.server.rstrip("/"))


def _is_server(text: str) -> bool:
    """``https://host:port`` and nothing else, for it goes into k3s's configuration and the record. Whether host and
    port can be reached is for a check (``target-url``)."""
    if not re.fullmatch(r"[\x21-\x7e]+", text):  # urlsplit takes line breaks out by itself
        return False
    try:
        url = urllib.parse.urlsplit(text)
    except ValueError:  # [::1 without its bracket
        return False
    return url.scheme == "https" and bool(url.hostname) and url.path in ("", "/") and not set("@?#") & set(text)


def refuse_keep(request: RollbackRequest) -> None:
    """What this agent cannot do for the rollback of a migration."""
    if request.writes == "keep":
        raise NotImplementedYet(
            'Going back and keeping the writes made since ({"writes": "keep"}, the default) is not built yet.',
            next_step='Use {"writes": "discard"} to put back the SQLite from before the migration.',
        )


def refuse_discard(request: RollbackRequest) -> None:
    """A server that joined has nothing to discard to."""
    if request.writes == "discard":
        raise InvalidBody(
            "This server joined its cluster and has no SQLite to go back to; its rollback is to leave the cluster.",
            next_step="Ask without writes: k3s-ha-agentctl rollback",
            key="writes",
        )


def parameters(request: Request) -> dict[str, Any]:
    """The request as the record and the API show it: durations as text, nothing that was not said."""
    shown: dict[str, Any] = {}
    for field in dataclasses.fields(request):
        value = getattr(request, field.name)
        if value is None or field.name in SECRET:
            continue
        is_duration = field.name in ("timeout", "stability")
        shown[field.name] = format_duration(value) if is_duration else value
    return shown


def digest(kind: Kind, body: Mapping[str, Any]) -> str:
    """What tells one request from another under the same Idempotency-Key."""
    told = {key: value for key, value in body.items() if key != "token"}  # a record keeps nothing made of a secret
    text = json.dumps([kind.value, told], sort_keys=True, separators=(",", ":"))
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
