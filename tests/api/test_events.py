"""Server-sent events: whole, resumed, kept alive, left."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import structlog.testing

from k3s_ha_agent.api.service import Limits
from k3s_ha_agent.model import Event
from tests.api.conftest import Running, Start
from tests.api.memory_manager import MemoryManager, Play


def parse(text: str) -> list[tuple[int | None, str, dict[str, Any]]]:
    """Events as a browser would see them: id, type, data."""
    events = []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if "data" in fields:
            identity = int(fields["id"]) if "id" in fields else None
            events.append((identity, fields["event"], json.loads(fields["data"])))
    return events


async def stream(api: Running, operation: str, **headers: str) -> str:
    status, text, response = await api.ask("GET", f"/v1/operations/{operation}/events", headers=headers)
    assert (status, response.content_type) == (200, "text/event-stream")
    return str(text)


async def test_from_the_beginning_to_the_end(start: Start) -> None:
    api = await start()
    operation = await api.begin()
    events = parse(await stream(api, operation))
    assert [type_ for _, type_, _ in events].count("finished") == 1
    assert events[-1][1:] == ("finished", {**events[-1][2], "data": {"outcome": "succeeded"}})
    assert [data["id"] for _, _, data in events] == list(range(1, len(events) + 1))
    assert set(events[0][2]) == {"id", "time", "type", "data"}


async def test_progress_has_no_id_to_come_back_with(start: Start) -> None:
    """The agent does not keep progress: after a restart its ids are given again."""
    api = await start()
    events = parse(await stream(api, await api.begin()))
    assert {type_ for identity, type_, _ in events if identity is None} == {"progress"}
    assert all(identity == data["id"] for identity, _, data in events if identity is not None)


async def test_resumed_after_every_event(start: Start) -> None:
    api = await start()
    operation = await api.begin()
    whole = parse(await stream(api, operation))
    for identity in [i for i, _, _ in whole if i is not None]:
        rest = parse(await stream(api, operation, **{"Last-Event-ID": str(identity)}))
        assert rest == [event for event in whole if event[2]["id"] > identity]
    assert rest == []


async def test_last_event_ids_that_are_none(start: Start) -> None:
    api = await start()
    operation = await api.begin()
    for value in ("-1", "one", "", "1.5", "9" * 30):
        status, problem, _ = await api.ask(
            "GET", f"/v1/operations/{operation}/events", headers={"Last-Event-ID": value}
        )
        assert (status, problem["code"]) == (400, "bad-request")


async def test_events_arrive_while_it_runs_and_silence_is_filled(start: Start) -> None:
    api = await start(Play(hold_at="start-k3s"), limits=Limits(keep_alive=0.05))
    operation = await api.begin()
    async with api.session.get(f"http://localhost/v1/operations/{operation}/events") as response:
        seen = b""
        while seen.partition(b'"start-k3s"')[2].count(b": keep-alive\n\n") < 3:
            seen += await response.content.readline()
        assert [e[2]["data"] for e in parse(seen.decode())][-1] == {
            "step": "start-k3s",
            "status": "doing",
            "error": None,
        }
        api.manager.released.set()
        rest = (await response.content.read()).decode()
    assert parse(rest)[-1][1] == "finished"


async def test_a_caller_that_leaves_is_let_go(start: Start) -> None:
    """Without waiting for the next thing to send to it."""
    api = await start(Play(hold_at="start-k3s"), limits=Limits(keep_alive=3600))
    operation = await api.begin()
    async with api.session.get(f"http://localhost/v1/operations/{operation}/events") as response:
        while b'"start-k3s"' not in await response.content.readline():
            pass
        assert api.server.service.long_calls == 1
    while api.server.service.long_calls or api.manager.following:
        await asyncio.sleep(0.01)


async def test_a_caller_that_does_not_read_is_let_go(start: Start) -> None:
    """Its socket is full; the others are served meanwhile."""
    api = await start(Play(hold_at="start-k3s"), limits=Limits(write_timeout=0.2))
    operation = await api.begin()
    async with asyncio.timeout(60):
        reader, writer = await asyncio.open_unix_connection(str(api.path), limit=1024)
        writer.write(f"GET /v1/operations/{operation}/events HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        while api.server.service.long_calls == 0:
            await asyncio.sleep(0.01)
        flood = [Event(n, "t", "decision", {"sentence": "x" * 10000}) for n in range(1000, 2000)]
        api.manager.sent[operation] += flood
        async with api.manager.changed:
            api.manager.changed.notify_all()
        while api.server.service.long_calls:
            assert (await api.ask("GET", "/livez"))[0] == 200
            await asyncio.sleep(0.01)
        # Cut off, not ended: the last chunk is never sent.
        received = b""
        with contextlib.suppress(ConnectionError):
            while piece := await reader.read(65536):
                received += piece
        assert b"event: step" in received
        assert not received.endswith(b"0\r\n\r\n")
        writer.close()


async def test_head_does_not_follow(start: Start) -> None:
    api = await start(Play(hold_at="start-k3s"))
    operation = await api.begin()
    status, text, response = await api.ask("HEAD", f"/v1/operations/{operation}/events")
    assert (status, text, response.content_type) == (200, "", "text/event-stream")


class Broken(MemoryManager):
    async def events(self, operation_id: str, after: int = 0, /) -> AsyncIterator[Event]:
        async for event in super().events(operation_id, after):
            yield event
            raise RuntimeError("hunter2")


async def test_a_bug_in_the_middle_ends_the_stream_and_is_logged(start: Start) -> None:
    api = await start()
    api.manager.__class__ = Broken
    operation = await api.begin()
    with structlog.testing.capture_logs() as logs:
        text = await stream(api, operation)
    assert len(parse(text)) == 1
    assert "hunter2" not in text
    assert [entry["log_level"] for entry in logs] == ["error"]
    assert (await api.ask("GET", "/livez"))[0] == 200


class EndsSilently(MemoryManager):
    """As after the rescue ended an operation: it has an outcome, and no event says so."""

    async def events(self, operation_id: str, after: int = 0, /) -> AsyncIterator[Event]:
        async for event in super().events(operation_id, after):
            if event.type != "finished":
                yield event
        await asyncio.Event().wait()


async def test_an_operation_the_rescue_ended(start: Start) -> None:
    api = await start()
    api.manager.__class__ = EndsSilently
    events = parse(await stream(api, await api.begin()))
    assert events[-1][1] == "step"


async def test_two_follow(start: Start) -> None:
    api = await start(Play(hold_at="start-k3s"))
    operation = await api.begin()
    async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(path=str(api.path))) as other:
        url = f"http://localhost/v1/operations/{operation}/events"
        async with api.session.get(url) as first, other.get(url) as second:
            await first.content.readline()
            await second.content.readline()
            api.manager.released.set()
            assert await first.content.read() == await second.content.read()
