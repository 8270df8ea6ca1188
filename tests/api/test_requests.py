"""What is refused before a manager sees it: broken, oversized, slow and odd requests."""

from __future__ import annotations

import asyncio
import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import structlog.testing

from k3s_ha_agent.api.requests import BODY_LIMIT
from k3s_ha_agent.api.service import Limits
from tests.api.conftest import Start
from tests.api.memory_manager import Play

JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b'{"dry_run": tr', 400, "not JSON"),
        (b'{"dry_run": true} {}', 400, "not JSON"),
        (b'{"dry_run": true, "dry_run": false}', 400, "'dry_run' is given twice"),
        (b'{"timeout": NaN}', 400, "NaN"),
        (b'{"timeout": -Infinity}', 400, "Infinity"),
        (b'{"method": "\xff"}', 400, "utf-8"),
        (b'\xef\xbb\xbf{"dry_run": true}', 400, "BOM"),
        (b'{"method": "\\ud800"}', 400, "surrogates"),
        (b"[" * 60000, 400, "nested too deeply"),
        (b'{"timeout": ' + b"9" * 60000 + b"}", 400, "not JSON"),
        (b"[]", 422, "not a JSON object"),
        (b"null", 422, "not a JSON object"),
        (b'"migrate"', 422, "not a JSON object"),
        (b'{"metod": "native"}', 422, "metod"),
        (b'{"dry_run": "yes"}', 422, "dry_run"),
        (b'{"dry_run": 1}', 422, "dry_run"),
    ],
    ids=lambda value: value[:20].decode("latin-1") if isinstance(value, bytes) else "",
)
async def test_bodies_that_are_refused(start: Start, body: bytes, status: int, words: str) -> None:
    api = await start()
    with structlog.testing.capture_logs() as logs:
        answered, problem, response = await api.ask("POST", "/v1/migrate", data=body, headers=JSON)
    assert answered == status
    assert response.content_type == "application/problem+json"
    assert problem["code"] == {400: "bad-request", 422: "invalid-body"}[status]
    assert problem["status"] == status
    assert words in problem["detail"]
    assert not api.manager.operations
    assert not [entry for entry in logs if entry["log_level"] == "error"]


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/json; charset=utf-16"},
        {"Content-Type": "application/json", "Content-Encoding": "gzip"},
    ],
    ids=str,
)
async def test_only_plain_json(start: Start, headers: dict[str, str]) -> None:
    api = await start()
    body = b'{"dry_run": true}'
    if "Content-Encoding" in headers:
        body = gzip.compress(body)
    status, problem, _ = await api.ask("POST", "/v1/migrate", data=body, headers=headers)
    assert (status, problem["code"]) == (415, "unsupported-media-type")


async def test_no_body_is_an_empty_object(start: Start) -> None:
    api = await start()
    assert (await api.ask("POST", "/v1/migrate"))[0] == 202


async def test_the_charset_may_be_named(start: Start) -> None:
    api = await start()
    headers = {"Content-Type": "application/json; charset=UTF-8"}
    assert (await api.ask("POST", "/v1/migrate", data=b'{"dry_run": true}', headers=headers))[0] == 200


def of_size(size: int) -> bytes:
    return b'{"dry_run": true}'.ljust(size)


async def in_pieces(body: bytes) -> Any:
    for position in range(0, len(body), 10000):
        yield body[position : position + 10000]


@pytest.mark.parametrize("chunked", [False, True])
async def test_the_size_of_a_body(start: Start, chunked: bool) -> None:
    api = await start()
    for size, expected in ((BODY_LIMIT, 200), (BODY_LIMIT + 1, 413), (10 * BODY_LIMIT, 413)):
        body = of_size(size)
        data = in_pieces(body) if chunked else body
        status, answer, _ = await api.ask("POST", "/v1/migrate", data=data, headers=JSON)
        assert status == expected, size
        assert expected == 200 or answer["code"] == "body-too-large"


async def raw(path: Path, *pieces: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_unix_connection(str(path))
    for piece in pieces:
        writer.write(piece)
        await writer.drain()
    return reader, writer


HEAD = b"POST /v1/migrate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


async def test_a_body_that_does_not_arrive(start: Start) -> None:
    api = await start(limits=Limits(body_timeout=0.2))
    reader, writer = await raw(api.path, HEAD + b"Content-Length: 20\r\n\r\n", b"{")
    assert await reader.readline() == b"HTTP/1.1 408 Request Timeout\r\n"
    writer.close()
    assert not api.manager.operations


async def test_a_slow_body_and_nobody_waits_for_it(start: Start) -> None:
    api = await start()
    body = b'{"dry_run": true}'
    reader, writer = await raw(api.path, HEAD + f"Content-Length: {len(body)}\r\n\r\n".encode())
    for byte in body:
        assert (await api.ask("GET", "/livez"))[0] == 200
        writer.write(bytes([byte]))
    assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
    writer.close()


@pytest.mark.parametrize(
    "head",
    [b"Content-Length: 20\r\n\r\n{", b'Transfer-Encoding: chunked\r\n\r\n5\r\n{"a":\r\n'],
    ids=["length", "chunked"],
)
async def test_a_body_that_ends_early_is_no_bug(start: Start, head: bytes) -> None:
    api = await start()
    with structlog.testing.capture_logs() as logs:
        _, writer = await raw(api.path, HEAD + head)
        writer.close()
        await writer.wait_closed()
        while not any("/v1/migrate" in entry["event"] for entry in logs):
            await asyncio.sleep(0.01)
    assert [entry["log_level"] for entry in logs if "/v1/migrate" in entry["event"]] == ["info"]
    assert not api.manager.operations


async def test_a_broken_chunk_is_no_bug(start: Start) -> None:
    api = await start()
    with structlog.testing.capture_logs() as logs:
        reader, writer = await raw(api.path, HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n")
        assert b" 400 " in await reader.readline()
        writer.close()
    assert not [entry for entry in logs if entry["log_level"] == "error"]
    assert not api.manager.operations


@pytest.mark.parametrize(
    "target",
    [
        "/v1/operations?limit=1&limit=2",
        "/v1/operations?limit=0",
        "/v1/operations?limit=many",
        "/v1/operations?limit=1001",
    ],
)
async def test_queries_that_are_refused(start: Start, target: str) -> None:
    api = await start()
    status, problem, _ = await api.ask("GET", target)
    assert (status, problem["code"]) == (400, "bad-request")


async def test_unknown_query_keys_are_ignored(start: Start) -> None:
    api = await start()
    assert (await api.ask("GET", "/v1/operations?colour=red&colour=blue"))[0] == 200


async def test_a_question_in_the_query_does_not_become_an_act(start: Start) -> None:
    api = await start()
    for value in ("true", "false", ""):
        status, problem, _ = await api.ask("POST", f"/v1/migrate?dry_run={value}")
        assert (status, problem["code"]) == (400, "bad-request")
    assert not api.manager.operations


@pytest.mark.parametrize("key", ["", "two words", "x" * 256, "schlüssel"])
async def test_keys_that_are_none(start: Start, key: str) -> None:
    api = await start()
    status, problem, _ = await api.ask("POST", "/v1/migrate", headers={"Idempotency-Key": key})
    assert (status, problem["code"]) == (400, "bad-request")
    assert not api.manager.operations


async def test_two_keys_are_none(start: Start) -> None:
    api = await start()
    status, _, _ = await api.ask("POST", "/v1/migrate", headers=[("Idempotency-Key", "a"), ("Idempotency-Key", "b")])
    assert status == 400
    assert not api.manager.operations


async def test_paths_and_methods_that_do_not_fit(start: Start) -> None:
    api = await start()
    for target in ("/", "/v1", "/v1/operations/", "/v1/operations/..", "/v1/operations/%2e%2e%2fx", "/v2/status"):
        status, problem, response = await api.ask("GET", target)
        assert (status, problem["code"], response.content_type) == (404, "not-found", "application/problem+json")
    for method, target, allow in (
        ("DELETE", "/v1/operations/op-1", "GET, HEAD"),
        ("GET", "/v1/migrate", "POST"),
        ("HEAD", "/v1/migrate", "POST"),
        ("PUT", "/v1/operations/op-1/abort", "POST"),
        ("POST", "/v1/status", "GET, HEAD"),
    ):
        status, problem, response = await api.ask(method, target)
        assert (status, response.headers["Allow"]) == (405, allow)
        assert method == "HEAD" or problem["code"] == "method-not-allowed"


async def test_asking_never_changes_anything(start: Start) -> None:
    api = await start(Play(hold_at="start-k3s"))
    await api.begin()
    while api.manager.list()[0].steps[3].started_at is None:
        await asyncio.sleep(0.01)
    before = json.dumps([str(o) for o in api.manager.operations.values()])
    for route in api.server.routes:
        target = route.path.replace("{id:[A-Za-z0-9][A-Za-z0-9_.-]{0,127}}", "op-1").replace(
            "/wait", "/wait?timeout=0s"
        )
        await api.ask("HEAD", target)
        if not target.endswith("/events"):
            await api.ask("GET", target)
    assert json.dumps([str(o) for o in api.manager.operations.values()]) == before


async def test_head_says_what_get_would(start: Start) -> None:
    api = await start()
    operation = await api.begin()
    await api.manager.wait(operation, 60)
    for target in (
        "/livez",
        "/readyz",
        "/v1/operations",
        f"/v1/operations/{operation}/wait",
        "/metrics",
        "/v1/members",
    ):
        got, _, get = await api.ask("GET", target)
        status, body, head = await api.ask("HEAD", target)
        assert (status, head.content_type, body) == (got, get.content_type, ""), target
