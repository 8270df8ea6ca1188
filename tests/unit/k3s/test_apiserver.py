"""The API server's client against a real TLS server that replays recorded answers."""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from k3s_ha_agent.errors import ApiserverError, ObjectNotFound
from k3s_ha_agent.k3s.apiserver import MERGE_PATCH, Apiserver, parse_node
from k3s_ha_agent.k3s.layout import Layout
from tests.unit.k3s.pki import Authority
from tests.unit.k3s.serving import hanging_server, serving


def recorded(recordings: Path, name: str) -> Any:
    return json.loads((recordings / name).read_text())


def test_recorded_nodes(recordings: Path) -> None:
    before, after, back = (
        parse_node(recorded(recordings, f"node-n1-{name}.json")) for name in ("sqlite", "etcd", "rolled-back")
    )
    assert before.roles == back.roles == ("control-plane", "master")
    assert after.roles == ("control-plane", "etcd", "master")
    assert before.ready
    assert after.ready
    assert before.uid == after.uid == back.uid
    assert after.annotations["etcd.k3s.cattle.io/node-name"] == "n1-2f70a4be"
    assert "wrangler.cattle.io/managed-etcd-controller" in after.finalizers
    assert after.internal_ip == "10.99.0.11"
    assert after.resource_version == "376"
    assert after.conditions["MemoryPressure"] == "False"
    assert after.reasons["Ready"] == "KubeletReady"
    assert not after.deleting
    assert "etcd" in parse_node(recorded(recordings, "node-n3-ok.json")).roles


class Recorded:
    """An API server in front of the recorded Node, which asks for a client certificate."""

    def __init__(self, recordings: Path) -> None:
        self.node = recorded(recordings, "node-n1-etcd.json")
        self.version = recorded(recordings, "version.json")
        self.ready_answer: tuple[int, str] = (200, "ok")
        self.asked: list[tuple[str, str, str]] = []

    async def readyz(self, _: web.Request) -> web.Response:
        status, text = self.ready_answer
        return web.Response(status=status, text=text)

    async def get_version(self, _: web.Request) -> web.Response:
        return web.json_response(self.version)

    async def nodes(self, _: web.Request) -> web.Response:
        return web.json_response({"kind": "NodeList", "items": [self.node]})

    async def one(self, request: web.Request) -> web.Response:
        self.asked.append((request.method, request.match_info["name"], request.headers.get("Content-Type", "")))
        if request.match_info["name"] != "n1":
            status = {"kind": "Status", "message": f'nodes "{request.match_info["name"]}" not found', "code": 404}
            return web.json_response(status, status=404)
        if request.method == "PATCH":
            for key, value in (await request.json())["metadata"]["labels"].items():
                if value is None:
                    self.node["metadata"]["labels"].pop(key, None)
                else:
                    self.node["metadata"]["labels"][key] = value
        if request.method == "DELETE":
            self.node["metadata"]["deletionTimestamp"] = "2026-11-23T07:03:20Z"
        return web.json_response(self.node)

    async def forbidden(self, _: web.Request) -> web.Response:
        return web.json_response({"kind": "Status", "message": "forbidden: no", "code": 403}, status=403)

    async def nonsense(self, _: web.Request) -> web.Response:
        return web.Response(text="<html>", content_type="application/json")


@pytest.fixture
async def server(recordings: Path, tmp_path: Path) -> AsyncIterator[tuple[Recorded, Apiserver]]:
    layout = Layout(tmp_path)
    authority, clients = Authority("k3s-server-ca"), Authority("k3s-client-ca")
    cert, key = authority.issue(tmp_path, "serving")
    clients.issue(layout.tls, "client-admin")
    layout.server_ca.write_bytes(authority.pem)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cadata=clients.pem.decode())
    tls.load_cert_chain(cert, key)
    tls.verify_mode = ssl.CERT_REQUIRED
    replay = Recorded(recordings)
    routes = [
        ("GET", "/readyz", replay.readyz),
        ("GET", "/version", replay.get_version),
        ("GET", "/api/v1/nodes", replay.nodes),
        ("*", "/api/v1/nodes/{name}", replay.one),
        ("GET", "/forbidden", replay.forbidden),
        ("GET", "/nonsense", replay.nonsense),
    ]
    async with serving(routes, tls) as url:
        client = Apiserver.from_layout(layout, int(url.rsplit(":", 1)[1]), timeout=60)
        assert client.url == url
        async with client:
            yield replay, client


async def test_asking_with_the_admin_certificate(server: tuple[Recorded, Apiserver]) -> None:
    replay, client = server
    assert await client.version() == "v1.22.2-rc2+k3s1"
    (node,) = await client.nodes()
    assert node == await client.node("n1") == parse_node(replay.node)
    assert (await client.readyz()).ready
    assert await client.readyz()


async def test_stranger_and_wrong_ca(server: tuple[Recorded, Apiserver], tmp_path: Path) -> None:
    _, client = server
    layout = Layout(tmp_path)
    no_certificate = ssl.create_default_context(cafile=str(layout.server_ca))
    wrong_ca = ssl.create_default_context(cadata=Authority("other").pem.decode())
    for context in (no_certificate, wrong_ca):
        async with Apiserver(client.url, context, timeout=60) as stranger:
            with pytest.raises(ApiserverError):
                await stranger.version()
            assert not await stranger.readyz()


async def test_not_ready(server: tuple[Recorded, Apiserver]) -> None:
    replay, client = server
    replay.ready_answer = (500, "[+]ping ok\n[-]etcd failed: reason withheld\nreadyz check failed")
    found = await client.readyz()
    assert not found.ready
    assert "etcd failed" in found.reason
    assert "500" in found.reason
    replay.ready_answer = (503, "apiserver not ready")
    assert (await client.readyz()).reason == "HTTP 503: apiserver not ready"


async def test_changing_and_deleting_a_node(server: tuple[Recorded, Apiserver]) -> None:
    replay, client = server
    patch = {"metadata": {"labels": {"node-role.kubernetes.io/etcd": None, "x": "y"}}}
    node = await client.patch_node("n1", patch)
    assert node.roles == ("control-plane", "master")
    assert node.labels["x"] == "y"
    assert replay.asked[-1] == ("PATCH", "n1", MERGE_PATCH)
    assert await client.delete_node("n1")
    assert (await client.node("n1")).deleting
    assert not await client.delete_node("n2")


async def test_refusals(server: tuple[Recorded, Apiserver]) -> None:
    _, client = server
    with pytest.raises(ObjectNotFound):
        await client.node("n2")
    with pytest.raises(ApiserverError, match=r"HTTP 403: forbidden: no") as error:
        await client.ask("GET", "/forbidden")
    assert error.value.extensions["http_status"] == 403
    assert not isinstance(error.value, ObjectNotFound)
    with pytest.raises(ApiserverError, match="not JSON"):
        await client.ask("GET", "/nonsense")


async def test_names_cannot_leave_their_path(server: tuple[Recorded, Apiserver]) -> None:
    replay, client = server
    for name in ("../namespaces/default", "n1?dryRun=All", "n1#x"):
        assert not await client.delete_node(name)
        assert replay.asked[-1][:2] == ("DELETE", name)
    assert "deletionTimestamp" not in replay.node["metadata"]


async def test_node_that_makes_no_sense() -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.json_response({"kind": "Status"})

    async with serving([("GET", "/{path:.*}", answer)]) as url, Apiserver(url, None, timeout=60) as client:
        with pytest.raises(ApiserverError, match="not understood"):
            await client.node("n1")
        with pytest.raises(ApiserverError, match="no version"):
            await client.version()
        assert await client.nodes() == []


async def test_api_that_hangs() -> None:
    """Two of three servers stopped: the API does not fail, it hangs (k3s-facts, "Seen" 11)."""
    async with hanging_server() as url, Apiserver(url, None, timeout=0.3) as client:
        with pytest.raises(ApiserverError, match="did not answer GET /version within 300ms"):
            await client.version()
        found = await client.readyz()
        assert not found
        assert "did not answer" in found.reason


async def test_nobody_there(tmp_path: Path) -> None:
    async with serving([]) as url:
        pass
    async with Apiserver(url, None, timeout=60) as client:
        with pytest.raises(ApiserverError, match="cannot be asked"):
            await client.nodes()
    with pytest.raises(ApiserverError, match="cannot be read"):
        Apiserver.from_layout(Layout(tmp_path))
