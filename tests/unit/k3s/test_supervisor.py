"""The supervisor's client against a real TLS server that replays recorded answers."""

from __future__ import annotations

import base64
import json
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from k3s_ha_agent.errors import SupervisorError, TokenError
from k3s_ha_agent.k3s.layout import Layout
from k3s_ha_agent.k3s.supervisor import Supervisor, fetch_cacerts, parse_config, parse_db_info, parse_passwd
from k3s_ha_agent.k3s.token import Token, ca_hash
from tests.unit.k3s.pki import Authority
from tests.unit.k3s.serving import hanging_server, serving

PASSWORD = "291f82fcc379cd84d851a9dcd96263b3"


def recorded_db_info(recordings: Path, name: str) -> tuple[int, str]:
    """Status and body; the recording ends with ``HTTP <status>``."""
    body, _, status = (recordings / name).read_text().rpartition("HTTP ")
    return int(status), body


def test_recorded_db_info(recordings: Path) -> None:
    etcd = parse_db_info(*recorded_db_info(recordings, "db-info-etcd.txt"))
    (member,) = etcd.members
    assert (etcd.http_status, member.name, member.id) == (200, "n1-2f70a4be", 3420929696581089811)
    assert member.client_urls == ("https://10.99.0.11:2379",)
    sqlite = parse_db_info(*recorded_db_info(recordings, "db-info-sqlite.txt"))
    assert (sqlite.http_status, sqlite.members, sqlite.message) == (401, (), "Unauthorized")
    assert parse_db_info(400, "etcd datastore disabled\n").message == "etcd datastore disabled"
    for text in ("", "[]", '{"members":[{}]}', "<html>"):
        with pytest.raises(SupervisorError):
            parse_db_info(200, text)


def test_recorded_config(recordings: Path) -> None:
    config = parse_config((recordings / "v1-k3s-config.json").read_text())
    assert config["ClusterInit"] is False
    assert config["ServerNodeName"] == "n1"
    for text in ("", "[]", "nope"):
        with pytest.raises(SupervisorError):
            parse_config(text)


def test_passwd() -> None:
    text = f"{PASSWORD},node,node,k3s:agent\nother,server,server,k3s:server\n\nodd\n"
    assert parse_passwd(text) == {"node": PASSWORD, "server": "other"}


class Peer:
    """A server's supervisor, with who may ask what."""

    def __init__(self, recordings: Path, authority: Authority, directory: Path) -> None:
        self.recordings, self.authority = recordings, authority
        cert, key = authority.issue(directory, "serving")
        self.tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.tls.load_cert_chain(cert, key)
        self.ready = True
        self.bundle = authority.pem
        self.credentials: list[str] = []

    def _user(self, request: web.Request) -> str:
        header = request.headers.get("Authorization", "")
        if not header:
            return ""
        self.credentials.append(header)
        user, _, password = base64.b64decode(header.removeprefix("Basic ")).decode().partition(":")
        return user if password == PASSWORD else "?"

    async def ping(self, _: web.Request) -> web.Response:
        return web.Response(text="pong")

    async def cacerts(self, request: web.Request) -> web.Response:
        self._user(request)
        return web.Response(body=self.bundle)

    async def readyz(self, request: web.Request) -> web.Response:
        allowed = self._user(request) in ("node", "server")
        if not allowed:
            return web.Response(status=401)
        return web.Response(text="ok") if self.ready else web.Response(status=500, text="runtime core not ready")

    async def db_info(self, request: web.Request) -> web.Response:
        name = "db-info-etcd.txt" if self._user(request) == "server" else "db-info-sqlite.txt"
        status, body = recorded_db_info(self.recordings, name)
        return web.Response(status=status, text=body)

    async def config(self, request: web.Request) -> web.Response:
        if self._user(request) not in ("node", "server"):
            return web.Response(status=401, text="Unauthorized")
        return web.json_response(json.loads((self.recordings / "v1-k3s-config.json").read_text()))


@pytest.fixture
async def peer(recordings: Path, tmp_path: Path) -> AsyncIterator[tuple[Peer, str]]:
    served = Peer(recordings, Authority("k3s-server-ca"), tmp_path / "peer")
    routes = [
        ("GET", "/ping", served.ping),
        ("GET", "/cacerts", served.cacerts),
        ("GET", "/v1-k3s/readyz", served.readyz),
        ("GET", "/v1-k3s/config", served.config),
        ("GET", "/db/info", served.db_info),
    ]
    async with serving(routes, served.tls) as url:
        yield served, url


def token_for(peer: Peer) -> Token:
    return Token.parse(f"K10{ca_hash(peer.authority.pem)}::server:{PASSWORD}")


async def test_peer_trusted_by_the_token(peer: tuple[Peer, str]) -> None:
    served, url = peer
    async with await Supervisor.of_peer(url, token_for(served), timeout=60) as client:
        assert await client.ping()
        assert await client.cacerts() == served.authority.pem
        assert (await client.config())["ServerNodeName"] == "n1"
        info = await client.db_info()
        assert (info.http_status, len(info.members)) == (200, 1)
        assert await client.readyz() == (True, "HTTP 200: ok")
        served.ready = False
        assert await client.readyz() == (False, "HTTP 500: runtime core not ready")
    async with await Supervisor.of_peer(url, token_for(served), username="node", timeout=60) as node:
        assert (await node.db_info()).http_status == 401
        assert (await node.config())["ServerNodeName"] == "n1"


async def test_password_is_not_sent_to_another_cluster(peer: tuple[Peer, str]) -> None:
    served, url = peer
    other = Token.parse(f"K10{'0' * 64}::server:{PASSWORD}")
    with pytest.raises(TokenError, match="has the CA"):
        await Supervisor.of_peer(url, other, timeout=60)
    with pytest.raises(TokenError, match="bare password"):
        await Supervisor.of_peer(url, Token.parse(PASSWORD), timeout=60)
    # One that shows our CA's certificate without having its key.
    served.bundle = Authority("stolen").pem
    stolen = Token.parse(f"K10{ca_hash(served.bundle)}::server:{PASSWORD}")
    async with await Supervisor.of_peer(url, stolen, timeout=60) as client:
        with pytest.raises(SupervisorError):
            await client.config()
    assert served.credentials == []


async def test_wrong_password(peer: tuple[Peer, str]) -> None:
    served, url = peer
    wrong = Token.parse(f"K10{ca_hash(served.authority.pem)}::server:wrong")
    async with await Supervisor.of_peer(url, wrong, timeout=60) as client:
        with pytest.raises(SupervisorError, match="HTTP 401") as error:
            await client.config()
        assert error.value.extensions["http_status"] == 401
        assert "wrong" not in str(error.value)
        assert (await client.db_info()).http_status == 401
        assert (await client.readyz())[0] is False


async def test_this_server(peer: tuple[Peer, str], tmp_path: Path) -> None:
    served, url = peer
    layout = Layout(tmp_path / "k3s")
    port = int(url.rsplit(":", 1)[1])
    layout.tls.mkdir(parents=True)
    with pytest.raises(TokenError):
        Supervisor.from_layout(layout, port)
    layout.token_file.write_text(f"K10{ca_hash(served.authority.pem)}::server:{PASSWORD}\n")
    with pytest.raises(SupervisorError, match="cannot be read"):
        Supervisor.from_layout(layout, port)
    layout.server_ca.write_bytes(served.authority.pem)
    async with Supervisor.from_layout(layout, port, timeout=60) as client:
        assert client.url == url
        assert (await client.db_info()).members[0].name == "n1-2f70a4be"
    layout.server_ca.write_bytes(Authority("other").pem)
    async with Supervisor.from_layout(layout, port, timeout=60) as client:
        with pytest.raises(SupervisorError):
            await client.ping()


async def test_ping_of_something_else() -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(text="hello")

    async with serving([("GET", "/ping", answer)]) as url, Supervisor(url, None, timeout=60) as client:
        assert not await client.ping()


async def test_supervisor_that_hangs_or_is_away() -> None:
    async with hanging_server() as url, Supervisor(url, None, timeout=0.3) as client:
        for call in (client.ping, client.cacerts, client.readyz, client.db_info, client.config):
            with pytest.raises(SupervisorError, match="did not answer"):
                await call()
        with pytest.raises(SupervisorError, match="did not answer"):
            await fetch_cacerts(url, timeout=0.3)
    async with Supervisor(url, None, timeout=60) as client:
        with pytest.raises(SupervisorError, match="cannot be asked"):
            await client.ping()


async def test_answer_without_end() -> None:
    async def flood(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(40):
            await response.write(bytes(1024 * 1024))
        return response

    async with serving([("GET", "/cacerts", flood)]) as url, Supervisor(url, None, timeout=60) as client:
        with pytest.raises(SupervisorError, match="sends more than"):
            await client.cacerts()
