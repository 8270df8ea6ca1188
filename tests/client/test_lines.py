"""Bad lines and agents that go away: what is asked again, and what is not."""

from __future__ import annotations

import asyncio
import signal
import ssl
from pathlib import Path

import pytest

from k3s_ha_agent import errors
from k3s_ha_agent.client import AgentClient, AnswerLost, Endpoint, https, loopback, tls_context, unix_socket
from k3s_ha_agent.model import Outcome, Phase
from tests.api.conftest import Start
from tests.api.memory_manager import Play
from tests.client.conftest import Line, MakeClient, MakeLine
from tests.unit.ctl.conftest import Scene
from tests.unit.k3s.pki import Authority

BEARER = "0123456789abcdef0123456789abcdef"


def server_context(directory: Path, authority: Authority, clients: Authority | None = None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(*authority.issue(directory, "server"))
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=(clients or authority).pem.decode())
    return context


def client_context(directory: Path, authority: Authority, signer: Authority | None = None) -> ssl.SSLContext:
    ca = directory / "ca.crt"
    ca.write_bytes(authority.pem)
    return tls_context(ca, *(signer or authority).issue(directory, "fleet"))


def plain(line: Line) -> Endpoint:
    return loopback(f"http://127.0.0.1:{line.port}", BEARER)


async def test_loopback_sends_the_bearer_token(start: Start, make_client: MakeClient, line: MakeLine) -> None:
    way = await line((await start()).path)
    agent = make_client(plain(way))
    begun = await agent.migrate()
    assert (await agent.wait(begun.operation.id)).outcome is Outcome.SUCCEEDED
    assert [event.type async for event in agent.events(begun.operation.id)][-1] == "finished"
    assert all(f"Authorization: Bearer {BEARER}\r\n" in head for head in way.heads)
    assert all(f"Host: 127.0.0.1:{way.port}\r\n" in head for head in way.heads)
    assert BEARER not in repr(agent.endpoint)


async def test_tls_with_client_certificates(
    start: Start, make_client: MakeClient, line: MakeLine, tmp_path: Path
) -> None:
    authority = Authority("authority")
    way = await line((await start()).path, server_context(tmp_path, authority))
    agent = make_client(https(f"https://127.0.0.1:{way.port}", client_context(tmp_path, authority)))
    begun = await agent.migrate()
    assert (await agent.wait(begun.operation.id)).outcome is Outcome.SUCCEEDED


async def test_a_server_of_strangers_is_refused_at_once(
    start: Start, make_client: MakeClient, line: MakeLine, tmp_path: Path
) -> None:
    ours, theirs = Authority("ours"), Authority("theirs")
    way = await line((await start()).path, server_context(tmp_path, theirs, clients=ours))
    context = client_context(tmp_path, ours)
    agent = make_client(https(f"https://127.0.0.1:{way.port}", context), patience=3600)
    with pytest.raises(errors.AgentUnreachable, match=r"cannot be trusted: .*issuer"):
        await asyncio.wait_for(agent.status(), 60)
    assert way.heads == []


async def test_a_certificate_that_is_not_taken(
    start: Start, make_client: MakeClient, line: MakeLine, tmp_path: Path
) -> None:
    """In TLS 1.3 a server need not say so: from here it looks like a line that breaks."""
    ours, theirs = Authority("ours"), Authority("theirs")
    way = await line((await start()).path, server_context(tmp_path, ours))
    context = client_context(tmp_path, ours, signer=theirs)
    agent = make_client(https(f"https://127.0.0.1:{way.port}", context), patience=0.5)
    with pytest.raises(errors.AgentUnreachable, match="client certificate"):
        await agent.status()
    assert way.heads == []


@pytest.mark.parametrize(
    "url", ["http://10.0.0.1:9580", "http://localhost.example:1", "https://127.0.0.1:1", "http://u:p@127.0.0.1", "x"]
)
def test_a_bearer_token_goes_to_this_machine_only(url: str) -> None:
    with pytest.raises(errors.ConfigurationError):
        loopback(url, BEARER)


def test_tls_that_checks_nothing_is_refused() -> None:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with pytest.raises(errors.ConfigurationError, match="does not check"):
        https("https://127.0.0.1:1", context)


async def test_a_server_token_is_not_sent_in_the_clear(start: Start, make_client: MakeClient, line: MakeLine) -> None:
    way = await line((await start()).path)
    with pytest.raises(errors.ConfigurationError, match="not sent"):
        await make_client(plain(way)).join("https://10.0.0.1:6443", token="K10secret")
    assert way.heads == []


async def test_a_lost_answer_begins_nothing_twice(start: Start, make_client: MakeClient, line: MakeLine) -> None:
    """Under a key that nobody gave, too."""
    running = await start()
    way = await line(running.path)
    agent = make_client(plain(way))
    way.lose_answers = 3
    begun = await agent.migrate()
    assert begun.replayed and len(way.heads) == 4
    assert list(running.manager.operations) == [begun.operation.id]
    way.lose_answers = 2
    assert (await agent.wait(begun.operation.id)).outcome is Outcome.SUCCEEDED


async def test_a_lost_abort_is_not_sent_again(start: Start, make_client: MakeClient, line: MakeLine) -> None:
    running = await start(Play(hold_at="prove"))
    begun = await make_client(running.path).migrate()
    way = await line(running.path)
    way.lose_answers = 1
    with pytest.raises(AnswerLost):
        await make_client(plain(way)).abort(begun.operation.id)
    assert len(way.heads) == 1


async def test_patience_ends(rundir: Path, make_client: MakeClient) -> None:
    agent = make_client(rundir / "api.sock", patience=0.5)
    with pytest.raises(errors.AgentUnreachable, match="No agent answers on unix:"):
        await agent.status()
    assert agent.away is not None


async def test_an_agent_that_starts_is_waited_for(start: Start, make_client: MakeClient) -> None:
    ready = False
    running = await start(ready=lambda: ready)
    asking = asyncio.ensure_future(make_client(running.path).status())
    await asyncio.sleep(0.3)
    assert not asking.done()
    ready = True
    assert (await asking).agent_version
    ready = False
    with pytest.raises(errors.Unavailable):
        await make_client(running.path, patience=0.3).status()


async def test_events_come_once_over_a_line_that_breaks(start: Start, make_client: MakeClient, line: MakeLine) -> None:
    running = await start(Play(hold_at="prove"))
    way = await line(running.path)
    agent = make_client(plain(way))
    begun = await agent.migrate()
    seen: list[int | None] = []
    async for event in agent.events(begun.operation.id):
        seen.append(event.id)
        if event.type == "step" and event.data["step"] == "prove" and not running.manager.released.is_set():
            await way.cut()
            running.manager.released.set()
            await way.start()
    kept = [event.id for event in running.manager.sent[begun.operation.id] if event.type != "progress"]
    assert [number for number in seen if number is not None] == kept
    assert any("Last-Event-ID: " in head for head in way.heads)


async def test_waiting_and_events_over_restarts_of_the_agent(scene: Scene) -> None:
    """The agent is a process here: stopped in order, and killed, in the middle of an operation."""
    scene.start(hold_at="prove")
    async with AgentClient(unix_socket(scene.socket), patience=60) as agent:
        begun = await agent.migrate(idempotency_key="k")

        async def events() -> list[int]:
            return [event.id async for event in agent.events(begun.operation.id) if event.id is not None]

        waiting, reading = asyncio.ensure_future(agent.wait(begun.operation.id)), asyncio.ensure_future(events())
        for number in (signal.SIGTERM, signal.SIGKILL):
            while not any(
                s.name == "prove" and s.started_at for s in (await agent.operation(begun.operation.id)).steps
            ):
                await asyncio.sleep(0.05)
            await asyncio.to_thread(scene.stop, number)
            assert not waiting.done() and not reading.done()
            await asyncio.to_thread(scene.start, hold_at="prove")
        scene.release()
        ended = await asyncio.wait_for(waiting, 120)
        ids = await asyncio.wait_for(reading, 120)
        assert ended.phase is Phase.FINISHED and ended.outcome is Outcome.SUCCEEDED
        assert ids == sorted(set(ids))
        await asyncio.to_thread(scene.stop)
        asking = asyncio.ensure_future(agent.operation(ended.id))
        while agent.away is None:
            await asyncio.sleep(0.02)
        await asyncio.to_thread(scene.start)
        assert await asking == ended
