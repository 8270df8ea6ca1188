"""The client at the doors an agent really opens: loopback TCP with its token, TLS 1.3 with certificates."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from k3s_ha_agent import errors
from k3s_ha_agent.client import AgentClient, Endpoint, https, loopback, tls_context
from k3s_ha_agent.model import Datastore, Outcome
from k3s_ha_agent.settings import Address, Settings
from tests.api.callers import TOKEN, with_tls, with_token
from tests.api.conftest import Running, Start
from tests.api.memory_manager import Play
from tests.api.test_tcp import QUICK, reached
from tests.client.cable import Cable
from tests.client.conftest import MakeClient
from tests.unit.k3s.pki import Authority

NEW_TOKEN = "fedcba9876543210fedcba9876543210-token"


async def refused(call: Callable[[], Awaitable[object]], error: type[errors.AgentError], said: str = "") -> None:
    """Ask until the agent has looked at its files and refuses; that moment may cost a connection, too."""
    while True:
        with contextlib.suppress(errors.AgentUnreachable):
            try:
                await call()
            except error as found:
                if said in str(found):
                    return
                raise
        await asyncio.sleep(0.02)


async def works(call: Callable[[], Awaitable[object]]) -> None:
    """Ask until it is answered."""
    while True:
        with contextlib.suppress(errors.AgentError):
            await call()
            return
        await asyncio.sleep(0.02)


async def whole_migration(agent: AgentClient) -> str:
    """From the status to the last event, by every way of waiting; the operation's id."""
    assert (await agent.status()).node.datastore is Datastore.SQLITE
    begun = await agent.migrate()
    reading = asyncio.ensure_future(_kept(agent, begun.operation.id))
    assert (await agent.wait(begun.operation.id)).outcome is Outcome.SUCCEEDED
    ids = await reading
    assert ids == sorted(set(ids)) and len(ids) > 5
    return begun.operation.id


async def _kept(agent: AgentClient, operation_id: str) -> list[int]:
    return [event.id async for event in agent.events(operation_id) if event.id is not None]


@pytest.fixture
async def cable() -> AsyncIterator[Callable[[int], Awaitable[Cable]]]:
    made: list[Cable] = []

    async def make(port: int) -> Cable:
        made.append(Cable(port))
        await made[-1].plug_in()
        return made[-1]

    yield make
    for one in made:
        await one.cut()


MakeCable = Callable[[int], Awaitable[Cable]]


# --- loopback TCP ------------------------------------------------------------------------------------


async def over_tcp(start: Start, rundir: Path, play: Play | None = None) -> tuple[Running, Settings, str]:
    settings = with_token(rundir)
    running = await start(play, settings=settings, limits=QUICK)
    return running, settings, await reached(settings)


async def test_by_token(start: Start, rundir: Path, make_client: MakeClient) -> None:
    running, _, url = await over_tcp(start, rundir)
    operation = await whole_migration(make_client(loopback(url, TOKEN)))
    assert running.manager.get(operation).requested_by == "token"


async def test_with_a_wrong_token_nothing_is_done_and_nothing_is_asked_twice(
    start: Start, rundir: Path, make_client: MakeClient
) -> None:
    running, _, url = await over_tcp(start, rundir)
    agent = make_client(loopback(url, TOKEN + "x"), patience=3600)
    for call in (agent.status, agent.migrate, agent.members, agent.operations):
        with pytest.raises(errors.Unauthorized, match="not this agent's") as refused:
            await asyncio.wait_for(call(), 60)
        assert "token file" in refused.value.next_step and TOKEN not in str(refused.value)
    assert not running.manager.operations


async def test_the_token_is_changed_while_the_agent_runs(start: Start, rundir: Path, make_client: MakeClient) -> None:
    _, settings, url = await over_tcp(start, rundir)
    old, new = make_client(loopback(url, TOKEN)), make_client(loopback(url, NEW_TOKEN))
    await old.status()
    with pytest.raises(errors.Unauthorized):
        await new.status()
    settings.tcp_token_file.write_text(NEW_TOKEN)
    await refused(old.status, errors.Unauthorized)
    await whole_migration(new)


async def test_waiting_ends_in_time(start: Start, rundir: Path, make_client: MakeClient) -> None:
    running, _, url = await over_tcp(start, rundir, Play(hold_at="prove"))
    agent = make_client(loopback(url, TOKEN))
    begun = await agent.migrate()
    with pytest.raises(errors.NotFinishedYet):
        await agent.wait(begun.operation.id, timeout=0.3)
    running.manager.released.set()
    assert (await agent.wait(begun.operation.id, timeout=120)).outcome is Outcome.SUCCEEDED


async def test_through_a_tunnel_the_agent_is_asked_by_its_own_address(
    start: Start, rundir: Path, make_client: MakeClient, cable: MakeCable
) -> None:
    """As with ssh -L 9701:127.0.0.1:9580: the agent answers to no Host but its own."""
    running, settings, _ = await over_tcp(start, rundir)
    assert settings.listen_tcp is not None
    tunnel = await cable(settings.listen_tcp.port)
    here = f"http://127.0.0.1:{tunnel.port}"
    with pytest.raises(errors.Forbidden, match="another host"):
        await make_client(loopback(here, TOKEN)).migrate()
    assert not running.manager.operations
    await whole_migration(make_client(loopback(here, TOKEN, tunnel_to=str(settings.listen_tcp))))


def test_a_tunnel_leads_to_a_host_and_a_port() -> None:
    for wrong in ("", "127.0.0.1:x", "a b:1", "h:1/path", "u:p@h:1", "127.0.0.1", "h:1\r\nX: y"):
        with pytest.raises(errors.ConfigurationError):
            loopback("http://127.0.0.1:1", TOKEN, tunnel_to=wrong)


# --- TLS ---------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Scene:
    """An agent with TLS, and certificates for callers."""

    authority: Authority
    directory: Path
    settings: Settings
    running: Running

    def endpoint(self, name: str, *, by: Authority | None = None, port: int = 0, days: int = 2) -> Endpoint:
        """As ``name``, with a certificate of the agent's authority, or ``by`` another."""
        assert self.settings.listen_tls is not None
        ca = self.directory / "ca.crt"
        ca.write_bytes(self.authority.pem)
        cert, key = (by or self.authority).issue(self.directory / "clients", name, days=days)
        address = Address(self.settings.listen_tls.host, port or self.settings.listen_tls.port)
        return https(f"https://{address}", tls_context(ca, cert, key))


async def over_tls(
    start: Start, rundir: Path, play: Play | None = None, authority: Authority | None = None, host: str = "127.0.0.1"
) -> Scene:
    authority = authority or Authority("fleet-ca")
    settings = with_tls(rundir, authority)
    assert settings.listen_tls is not None
    settings = dataclasses.replace(settings, listen_tls=Address(host, settings.listen_tls.port))
    running = await start(play, settings=settings, limits=QUICK)
    await reached(settings)
    return Scene(authority, rundir, settings, running)


async def test_by_certificate(start: Start, rundir: Path, make_client: MakeClient) -> None:
    scene = await over_tls(start, rundir)
    operation = await whole_migration(make_client(scene.endpoint("fleet-1")))
    assert scene.running.manager.get(operation).requested_by == "CN:fleet-1"


async def test_the_role_read_reads_and_changes_nothing(start: Start, rundir: Path, make_client: MakeClient) -> None:
    scene = await over_tls(start, rundir, Play(hold_at="prove"))
    reader, admin = make_client(scene.endpoint("reader")), make_client(scene.endpoint("fleet-1"))
    assert (await reader.status()).node.datastore is Datastore.SQLITE and (await reader.preflight()).ok
    for change in (reader.migrate, lambda: reader.join("https://n1:6443", token_file="/t"), reader.rollback):
        with pytest.raises(errors.Forbidden, match="CN:reader") as refused:
            await change()
        assert "tls_admin" in refused.value.next_step
    assert not scene.running.manager.operations
    begun = await admin.migrate()
    with pytest.raises(errors.Forbidden):
        await reader.abort(begun.operation.id)
    assert not (await reader.operation(begun.operation.id)).abort_requested
    scene.running.manager.released.set()
    assert (await reader.wait(begun.operation.id)).outcome is Outcome.SUCCEEDED
    with pytest.raises(errors.Forbidden, match="role read"):
        await make_client(scene.endpoint("prom")).status()


@pytest.mark.parametrize("why", ["expired", "of another authority"])
async def test_a_client_certificate_that_is_not_taken(
    start: Start, rundir: Path, make_client: MakeClient, why: str
) -> None:
    """In TLS 1.3 the refusal comes after the handshake, with a word or without one."""
    scene = await over_tls(start, rundir)
    given = {"days": -1} if why == "expired" else {"by": Authority("fleet-ca")}
    agent = make_client(scene.endpoint("fleet-1", **given), patience=0.5)
    for call in (agent.status, agent.migrate):
        with pytest.raises(errors.AgentUnreachable) as refused:
            await call()
        assert "client certificate" in refused.value.next_step
    assert not scene.running.manager.operations


async def test_an_agent_of_another_authority_is_not_told_anything(
    start: Start, rundir: Path, make_client: MakeClient
) -> None:
    scene = await over_tls(start, rundir)
    ours = dataclasses.replace(scene, authority=Authority("ours"))
    agent = make_client(ours.endpoint("fleet-1", by=scene.authority), patience=3600)
    with pytest.raises(errors.AgentUnreachable, match=r"cannot be trusted: .*certificate"):
        await asyncio.wait_for(agent.migrate(), 60)
    assert not scene.running.manager.operations


async def test_a_certificate_for_another_address_is_not_taken(
    start: Start, rundir: Path, make_client: MakeClient
) -> None:
    scene = await over_tls(start, rundir, host="127.0.0.2")
    with pytest.raises(errors.AgentUnreachable, match=r"cannot be trusted: .*127\.0\.0\.2"):
        await asyncio.wait_for(make_client(scene.endpoint("fleet-1"), patience=3600).status(), 60)


async def test_an_agent_whose_certificate_expired_gets_another_without_a_restart(
    start: Start, rundir: Path, make_client: MakeClient
) -> None:
    scene = await over_tls(start, rundir)
    agent, late = make_client(scene.endpoint("fleet-1")), make_client(scene.endpoint("fleet-1"), patience=0)
    await agent.status()

    def issue(days: int) -> None:
        _, key = scene.authority.issue(scene.directory, "server", days=days)
        key.chmod(0o600)

    issue(-1)
    await refused(late.status, errors.AgentUnreachable, "certificate has expired")
    issue(2)
    await works(late.status)
    await whole_migration(agent)
    assert len(scene.running.manager.operations) == 1


async def test_another_authority_for_clients_without_a_restart(
    start: Start, rundir: Path, make_client: MakeClient
) -> None:
    """The old certificates are refused, also on connections that were open, and the new ones taken."""
    scene = await over_tls(start, rundir)
    other = Authority("next-ca")
    old = make_client(scene.endpoint("fleet-1"), patience=0)
    await old.status()
    scene.settings.tls_client_ca.write_bytes(other.pem)
    await refused(old.status, errors.AgentUnreachable)
    new = make_client(scene.endpoint("fleet-1", by=other))
    await works(new.status)


@pytest.mark.parametrize("way", ["tls", "tcp"])
async def test_events_go_on_where_they_were_when_the_cable_is_cut(
    start: Start, rundir: Path, make_client: MakeClient, cable: MakeCable, way: str
) -> None:
    if way == "tls":
        scene = await over_tls(start, rundir, Play(hold_at="prove"))
        running, address = scene.running, scene.settings.listen_tls
    else:
        running, settings, _ = await over_tcp(start, rundir, Play(hold_at="prove"))
        address = settings.listen_tcp
    assert address is not None
    between = await cable(address.port)
    here = f"127.0.0.1:{between.port}"
    endpoint = (
        scene.endpoint("fleet-1", port=between.port)
        if way == "tls"
        else loopback(f"http://{here}", TOKEN, tunnel_to=str(address))
    )
    agent = make_client(endpoint)
    begun = await agent.migrate()
    seen: list[int] = []
    cuts = 0
    async for event in agent.events(begun.operation.id):
        seen += [event.id] if event.id is not None else []
        if event.type == "step" and event.data["step"] == "prove" and not cuts:
            cuts, before = between.connections, between.connections
            await between.cut()
            running.manager.released.set()
            await running.manager.wait(begun.operation.id, 60)
            await between.plug_in()
    kept = [event.id for event in running.manager.sent[begun.operation.id] if event.type != "progress"]
    assert cuts and between.connections > before
    assert seen == kept, "each once and in order"
