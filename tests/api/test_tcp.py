"""Loopback TCP: the token, the Host, the Origin, and what becomes of the port when the token file is not right."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp
import pytest
import structlog.testing

from k3s_ha_agent.api.loopback import read_token
from k3s_ha_agent.api.service import Limits
from k3s_ha_agent.errors import ConfigurationError
from k3s_ha_agent.settings import Address, Settings
from tests.api.callers import TOKEN, Answer, ask, free_port, with_token
from tests.api.conftest import Running, Start

QUICK = Limits(look_at_files=0.05)
GOOD = {"Authorization": f"Bearer {TOKEN}"}


async def reached(settings: Settings) -> str:
    """The URL of the port, once it is open."""
    address = settings.listen_tcp or settings.listen_tls
    assert address is not None
    while True:
        try:
            _, writer = await asyncio.open_connection(address.host, address.port)
        except OSError:
            await asyncio.sleep(0.02)
            continue
        writer.close()
        return f"http://{address}"


async def until(happens: Callable[[], Awaitable[bool]]) -> None:
    """Ask until it is so. A connection made just before changed files are looked at ends without an answer."""
    while True:
        with contextlib.suppress(aiohttp.ClientConnectionError, ConnectionError):
            if await happens():
                return
        await asyncio.sleep(0.02)


@pytest.fixture
async def api(start: Start, rundir: Path) -> tuple[Running, str]:
    settings = with_token(rundir)
    running = await start(settings=settings, limits=QUICK)
    return running, await reached(settings)


async def test_it_is_off_by_default(start: Start) -> None:
    assert (Settings().listen_tcp, Settings().listen_tls) == (None, None)
    running = await start()
    assert running.server._remote._tasks == []


async def test_with_the_token_everything_is_done(api: tuple[Running, str]) -> None:
    running, url = api
    assert (await ask("GET", f"{url}/v1/status", headers=GOOD)).status == 200
    assert (await ask("GET", f"{url}/v1/status", headers={"Authorization": f"bearer  {TOKEN}"})).status == 200
    assert (await ask("POST", f"{url}/v1/migrate", headers=GOOD)).status == 202
    assert running.manager.list()[0].requested_by == "token"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer "},
        {"Authorization": TOKEN},
        {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": f"Bearer {TOKEN}x"},
        {"Authorization": f"Bearer {TOKEN[:-1]}"},
        {"Authorization": f"Bearer {TOKEN.upper()}"},
        {"Authorization": "Bearer ü"},
        {"X-Token": TOKEN},
    ],
    ids=str,
)
@pytest.mark.parametrize("target", ["/v1/status", "/livez", "/metrics", "/v1/openapi.json"])
async def test_without_the_token_nothing_is_said(
    api: tuple[Running, str], headers: dict[str, str], target: str
) -> None:
    answer = await ask("GET", api[1] + target, headers=headers)
    assert (answer.status, answer.code) == (401, "unauthorized")
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert TOKEN not in str(answer.body)


async def test_without_the_token_nothing_is_begun(api: tuple[Running, str]) -> None:
    running, url = api
    assert (await ask("POST", f"{url}/v1/migrate")).status == 401
    assert not running.manager.operations


async def test_two_tokens_are_none(api: tuple[Running, str]) -> None:
    async with aiohttp.ClientSession() as session:
        headers = [("Authorization", f"Bearer {TOKEN}"), ("Authorization", f"Bearer {TOKEN}")]
        async with session.get(f"{api[1]}/v1/status", headers=headers) as response:
            assert response.status == 401


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1", "localhost", "127.0.0.1:1", "127.0.0.2:{port}", ""])
async def test_other_hosts_are_not_ours(api: tuple[Running, str], host: str) -> None:
    _, url = api
    headers = {**GOOD, "Host": host.format(port=url.rpartition(":")[2])}
    answer = await ask("GET", f"{url}/v1/status", headers=headers)
    assert (answer.status, answer.code) == (403, "forbidden")


async def test_names_of_this_server_are(api: tuple[Running, str]) -> None:
    _, url = api
    port = url.rpartition(":")[2]
    for host in (f"localhost:{port}", f"LOCALHOST:{port}", f"127.0.0.1:{port}", f"[::1]:{port}"):
        assert (await ask("GET", f"{url}/v1/status", headers={**GOOD, "Host": host})).status == 200


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:9580", ""])
async def test_web_pages_are_refused(api: tuple[Running, str], origin: str) -> None:
    running, url = api
    for method in ("GET", "POST"):
        target = "/v1/status" if method == "GET" else "/v1/migrate"
        answer = await ask(method, url + target, headers={**GOOD, "Origin": origin})
        assert (answer.status, answer.code) == (403, "forbidden")
    assert not running.manager.operations


async def test_a_join_token_does_not_travel_here(api: tuple[Running, str]) -> None:
    running, url = api
    answer = await ask("POST", f"{url}/v1/join", headers=GOOD, server="https://n1:6443", token="K10abc::server:hunter2")
    assert (answer.status, answer.code) == (403, "forbidden")
    assert "token_file" in answer.body["next_step"] and "hunter2" not in str(answer.body)
    # Over the socket it is the manager's to judge.
    assert (
        await running.ask("POST", "/v1/join", json={"server": "https://n1:6443", "token": "K10abc::server:hunter2"})
    )[0] == 202


async def test_another_token_is_in_force_without_a_restart(api: tuple[Running, str], rundir: Path) -> None:
    _, url = api
    new = TOKEN[::-1]

    async def status(token: str) -> int:
        return (await ask("GET", f"{url}/v1/status", headers={"Authorization": f"Bearer {token}"})).status

    async def let_in() -> bool:
        return await status(new) == 200

    (rundir / "new").write_text(new)
    (rundir / "new").chmod(0o600)
    (rundir / "new").rename(rundir / "api-token")
    await until(let_in)
    assert await status(TOKEN) == 401


async def test_connections_made_with_an_old_token_end(api: tuple[Running, str], rundir: Path) -> None:
    _, url = api
    host, _, port = url.removeprefix("http://").rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"GET /livez HTTP/1.1\r\nHost: {host}:{port}\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode())
    assert b"200" in await reader.readline()
    (rundir / "api-token").write_text(TOKEN[::-1])
    await reader.read()
    writer.close()


async def test_a_token_file_that_went_wrong_lets_nobody_in(api: tuple[Running, str], rundir: Path) -> None:
    running, url = api
    (rundir / "api-token").chmod(0o640)

    async def answer() -> Answer:
        return await ask("GET", f"{url}/v1/status", headers=GOOD)

    async def refused() -> bool:
        return (await answer()).status == 401

    await until(refused)
    assert (await running.ask("GET", "/v1/status"))[0] == 200, "the socket is not touched by it"
    (rundir / "api-token").chmod(0o600)

    async def let_in() -> bool:
        return (await answer()).status == 200

    await until(let_in)


async def test_the_agent_starts_without_and_opens_the_port_later(start: Start, rundir: Path) -> None:
    settings = with_token(rundir)
    token = settings.tcp_token_file
    token.rename(rundir / "away")
    with structlog.testing.capture_logs() as logs:
        running = await start(settings=settings, limits=QUICK)
        while not any("does not listen" in entry["event"] for entry in logs):
            await asyncio.sleep(0.02)
        await asyncio.sleep(0.3)
    assert (await running.ask("GET", "/readyz"))[0] == 200
    assert len([e for e in logs if "does not listen" in e["event"]]) == 1, "said once"
    (rundir / "away").rename(token)
    url = await reached(settings)
    assert (await ask("GET", f"{url}/v1/status", headers=GOOD)).status == 200


async def test_a_port_that_is_taken_is_tried_again(start: Start, rundir: Path) -> None:
    settings = with_token(rundir)
    assert settings.listen_tcp is not None
    other = await asyncio.start_server(lambda r, w: w.close(), "127.0.0.1", settings.listen_tcp.port)
    with structlog.testing.capture_logs() as logs:
        await start(settings=settings, limits=QUICK)
        while not any("does not listen" in entry["event"] for entry in logs):
            await asyncio.sleep(0.02)
    other.close()
    await other.wait_closed()

    async def answered() -> bool:
        return (await ask("GET", f"{await reached(settings)}/livez", headers=GOOD)).status == 200

    await until(answered)


async def test_stopping_closes_the_port(api: tuple[Running, str]) -> None:
    running, url = api
    await running.server.stop(grace=1)
    host, _, port = url.removeprefix("http://").rpartition(":")
    with pytest.raises(OSError):
        await asyncio.open_connection(host, int(port))


@pytest.mark.parametrize(
    ("content", "mode", "words"),
    [
        (TOKEN.encode(), 0o640, "read by others"),
        (TOKEN.encode(), 0o604, "read by others"),
        (TOKEN.encode(), 0o700, "read by others"),
        (b"short", 0o600, "32 to 512"),
        (b"", 0o600, "32 to 512"),
        (TOKEN.encode() + b" " + TOKEN.encode(), 0o600, "one word"),
        (b"\xff" * 40, 0o600, "ASCII"),
        (b"x" * 600, 0o600, "512"),
    ],
)
def test_token_files_that_are_refused(content: bytes, mode: int, words: str, tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_bytes(content)
    path.chmod(mode)
    with pytest.raises(ConfigurationError, match=words) as error:
        read_token(path)
    assert TOKEN not in str(error.value)


def test_token_files_that_are_no_files(tmp_path: Path) -> None:
    (tmp_path / "real").write_text(TOKEN)
    (tmp_path / "real").chmod(0o600)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "directory").mkdir()
    for name in ("link", "directory", "none"):
        with pytest.raises(ConfigurationError):
            read_token(tmp_path / name)
    assert read_token(tmp_path / "real") == TOKEN.encode()


async def test_ipv6(start: Start, rundir: Path) -> None:
    settings = dataclasses.replace(with_token(rundir), listen_tcp=Address("::1", free_port()))
    try:
        server = await asyncio.start_server(lambda r, w: w.close(), "::1", 0)
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    server.close()
    await start(settings=settings, limits=QUICK)
    assert (await ask("GET", f"{await reached(settings)}/livez", headers=GOOD)).status == 200
