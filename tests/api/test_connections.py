"""Connections: how many, how long silent, and what comes back for what is no HTTP."""

from __future__ import annotations

import asyncio
import json
import logging
import re

import pytest

from k3s_ha_agent.api.service import Limits
from tests.api import contract
from tests.api.conftest import Running, Start
from tests.api.memory_manager import Play


async def say(api: Running, data: bytes) -> bytes:
    """Everything that comes back until the connection ends."""
    reader, writer = await asyncio.open_unix_connection(str(api.path))
    writer.write(data)
    try:
        return await reader.read()
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9.9\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost x\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: x\r\nContent-Length: many\r\n\r\n",
        b"POST /v1/migrate HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nX: " + b"a" * 20000 + b"\r\n\r\n",
        b"GET /" + b"a" * 20000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"G\x00T /livez HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET http://[::1/livez HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
    ids=lambda data: repr(data[:24]),
)
async def test_what_is_no_http_is_told_so(
    start: Start, data: bytes, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    api = await start()
    with caplog.at_level(logging.DEBUG):
        answer = await say(api, data)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert re.match(rb"HTTP/1.[01] 400 ", head), answer[:200]
    assert b"application/problem+json" in head
    problem = json.loads(body)
    assert problem["code"] == "bad-request"
    contract.check("GET", "/v1/status", 400, {}, "application/problem+json", problem)
    printed = caplog.text + "".join(capfd.readouterr())
    assert "Traceback" not in printed and not [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert not api.manager.operations
    assert (await api.ask("GET", "/livez"))[0] == 200


@pytest.mark.parametrize(("expect", "begin"), [("200-maybe", b"HTTP/1.1 415 "), ("100-continue", b"HTTP/1.1 100 ")])
async def test_an_expectation_that_is_not_known_changes_no_answer(start: Start, expect: str, begin: bytes) -> None:
    api = await start()
    head = ("POST /v1/migrate HTTP/1.1", "Host: x", f"Expect: {expect}", "Content-Length: 2", "Connection: close")
    answer = await say(api, "\r\n".join((*head, "", "{}")).encode())
    assert answer.startswith(begin), answer
    assert b" 415 " in answer and b"application/problem+json" in answer
    assert json.loads(answer.rpartition(b"\r\n\r\n")[2])["code"] == "unsupported-media-type"


async def test_a_connection_that_never_asks_is_ended(start: Start) -> None:
    api = await start(limits=Limits(first_request=0.2))
    assert await say(api, b"") == b""
    assert await say(api, b"GET /livez HTTP/1.1\r\nHo") == b""


async def test_a_connection_that_asks_no_more_is_ended(start: Start) -> None:
    api = await start(limits=Limits(first_request=3600, idle=0.2))
    answer = await say(api, b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\nGET /livez HT")
    assert answer.startswith(b"HTTP/1.1 200 OK") and answer.count(b"HTTP/1.1") == 1


async def test_a_connection_that_is_answered_is_not_idle(start: Start) -> None:
    api = await start(Play(hold_at="stop-k3s"), limits=Limits(idle=1.0))
    operation = await api.begin()
    waiting = asyncio.create_task(api.ask("GET", f"/v1/operations/{operation}/wait?timeout=60s"))
    await asyncio.sleep(3.5)  # it is looked for idle ones every second
    api.manager.released.set()
    assert (await waiting)[0] == 200


async def test_there_is_room_for_so_many(start: Start) -> None:
    api = await start(limits=Limits(connections=3))
    held = [await asyncio.open_unix_connection(str(api.path)) for _ in range(3)]
    head, _, body = (await say(api, b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503 ") and b"Retry-After" in head
    contract.check("GET", "/livez", 503, {"Retry-After": "2"}, "application/problem+json", json.loads(body))
    held.pop()[1].close()
    while not (await say(api, b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")).startswith(
        b"HTTP/1.1 200"
    ):
        await asyncio.sleep(0.02)
    for _, writer in held:
        writer.close()
