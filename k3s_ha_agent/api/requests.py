"""Reading what a caller sent: strict, within limits, and refused in words."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

from aiohttp import web

from k3s_ha_agent.durations import format_duration, parse_duration
from k3s_ha_agent.errors import BadRequest, BodyTooLarge, InvalidBody, RequestTimedOut, UnsupportedMediaType
from k3s_ha_agent.model import Kind

BODY_LIMIT = 64 * 1024
WAIT_DEFAULT = 30.0
WAIT_LIMIT = 600.0
LIST_DEFAULT = 50
LIST_LIMIT = 1000

_IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,255}")


async def read_object(request: web.Request, *, timeout: float) -> dict[str, Any]:
    """The JSON object in the body, which may take ``timeout`` seconds; an absent one is an empty object.

    Raises BadRequest, BodyTooLarge, InvalidBody, RequestTimedOut or UnsupportedMediaType.
    """
    if request.headers.get("Content-Encoding", "identity") != "identity":
        raise UnsupportedMediaType("The body is compressed.", next_step="Send it as it is.")
    body = await _read_body(request, timeout)
    if not body:
        return {}
    if request.content_type != "application/json" or (request.charset or "utf-8").lower() != "utf-8":
        raise UnsupportedMediaType(
            f"The body is {request.headers.get('Content-Type', 'of no type')}, not JSON in UTF-8.",
            next_step="Send the header Content-Type: application/json.",
        )
    return parse_object(body)


async def _read_body(request: web.Request, timeout: float) -> bytes:
    # Read here and not with request.read(), so that the limit holds for a body without a length, too.
    if (request.content_length or 0) > BODY_LIMIT:
        raise _too_large()
    body = bytearray()
    try:
        async with asyncio.timeout(timeout):
            async for chunk in request.content.iter_any():
                body += chunk
                if len(body) > BODY_LIMIT:
                    raise _too_large()
    except TimeoutError as error:
        raise RequestTimedOut(f"The body did not arrive within {format_duration(timeout)}.") from error
    except (ConnectionError, web.RequestPayloadError) as error:
        raise BadRequest("The body ended early.") from error
    return bytes(body)


def _too_large() -> BodyTooLarge:
    return BodyTooLarge(f"The body is larger than {BODY_LIMIT // 1024} KiB.", next_step="Send only what is documented.")


def parse_object(body: bytes) -> dict[str, Any]:
    """One JSON object, nothing said twice, no numbers that are none, no broken characters."""
    try:
        value = json.loads(body.decode(), object_pairs_hook=_unique, parse_constant=_no_constant)
        # A lone surrogate passes the parser, and then fails in the record or the answer.
        json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise BadRequest(f"The body is not JSON: {reason}.") from error
    if not isinstance(value, dict):
        raise InvalidBody("The body is not a JSON object.", next_step='Send an object, for example {"dry_run": true}.')
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice!r} is given twice")
    return value


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def query(request: web.Request, name: str) -> str | None:
    """One value of the query. Given twice, it is not known which was meant: BadRequest."""
    values = request.query.getall(name, [])
    if len(values) > 1:
        raise BadRequest(f"{name} is given {len(values)} times.", next_step="Give it once.")
    return values[0] if values else None


def wait_timeout(request: web.Request) -> float:
    """Seconds of ``?timeout=``."""
    text = query(request, "timeout")
    if text is None:
        return WAIT_DEFAULT
    try:
        seconds = parse_duration(text)
    except ValueError as error:
        raise BadRequest(f"timeout: {error}.", next_step="Write it like ?timeout=30s.") from error
    if seconds > WAIT_LIMIT:
        raise BadRequest(
            f"timeout={text} is longer than {format_duration(WAIT_LIMIT)}.",
            next_step="Ask for less, and ask again when the answer is 504.",
        )
    return seconds


def list_limit(request: web.Request) -> int:
    text = query(request, "limit")
    if text is None:
        return LIST_DEFAULT
    if not re.fullmatch(r"[0-9]{1,9}", text) or not 1 <= int(text) <= LIST_LIMIT:
        raise BadRequest(f"limit={text} is not a number from 1 to {LIST_LIMIT}.")
    return int(text)


def flag(request: web.Request, name: str) -> bool:
    """``?name=true`` or ``?name=false``; false when it is not there."""
    text = query(request, name)
    if text not in (None, "true", "false"):
        raise BadRequest(f"{name}={text} is neither true nor false.")
    return text == "true"


def preflight_kind(request: web.Request) -> Kind:
    text = query(request, "for")
    try:
        return Kind.MIGRATE if text is None else Kind(text)
    except ValueError as error:
        kinds = ", ".join(Kind)
        raise BadRequest(f"for={text} is no kind of operation.", next_step=f"Use one of {kinds}.") from error


def last_event_id(request: web.Request) -> int:
    """The id of the last event the caller has seen; 0 when it is new here."""
    text = request.headers.get("Last-Event-ID")
    if text is None:
        return 0
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise BadRequest("Last-Event-ID is not the id of an event.", next_step="Leave it out to get every event.")
    return int(text)


def idempotency_key(request: web.Request) -> str | None:
    values = request.headers.getall("Idempotency-Key", [])
    if not values:
        return None
    if len(values) > 1 or not _IDEMPOTENCY_KEY.fullmatch(values[0]):
        raise BadRequest(
            "Idempotency-Key is not one key of 1 to 255 visible ASCII characters.", next_step="A UUID is a good key."
        )
    return values[0]


def refuse_dry_run_in_query(request: web.Request) -> None:
    """Unknown query keys are ignored; this one must not be, or a question would become an act."""
    if "dry_run" in request.query:
        raise BadRequest("dry_run stands in the query.", next_step='Put it into the body: {"dry_run": true}.')
