"""Bootstrap data, and the certificates made of it, against real TLS servers and a stand-in cluster."""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
import traceback
from pathlib import Path

import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from k3s_ha_agent.errors import ApiserverError, SupervisorError, TokenError
from k3s_ha_agent.k3s import bootstrap
from k3s_ha_agent.k3s.apiserver import Apiserver
from k3s_ha_agent.k3s.bootstrap import Bootstrap, admin, admin_context, etcd_context, fetch, node_password, parse
from k3s_ha_agent.k3s.etcd import EtcdClient
from k3s_ha_agent.k3s.token import Token
from tests.standin.harness import K3s
from tests.standin.networks import own_network
from tests.unit.k3s.pki import Authority
from tests.unit.k3s.serving import serving

SECRET = b"hunter2"


def pem(authority: Authority) -> bytes:
    return authority.key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def data_of(server: Authority, client: Authority) -> dict[str, bytes]:
    return {
        "ServerCA": server.pem,
        "ServerCAKey": pem(server),
        "ClientCA": client.pem,
        "ClientCAKey": pem(client),
        "PasswdFile": b"agents,node,node,k3s:agent\nhunter2,server,server,k3s:server\n",
        "IPSECKey": SECRET,
    }


def as_text(files: dict[str, bytes], *, times: bool) -> str:
    def entry(content: bytes) -> object:
        text = base64.b64encode(content).decode()
        return {"Timestamp": "2026-11-23T07:05:03Z", "Content": text} if times else text

    return json.dumps({name: entry(content) for name, content in files.items()})


@pytest.mark.parametrize("times", [False, True], ids=["1.22.2", "since-2021-10"])
def test_both_forms(times: bool) -> None:
    files = data_of(Authority("server-ca"), Authority("client-ca"))
    found = parse(as_text(files, times=times))
    assert found.files == files
    assert node_password(found) == "agents", "an agent token of its own is not the server's"
    assert "hunter2" not in repr(found) and "ServerCA" in repr(found)
    assert node_password(Bootstrap({})) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hunter2",
        "[]",
        "null",
        '"hunter2"',
        '{"ServerCA": 1}',
        '{"ServerCA": "hunter2!"}',
        '{"ServerCA": {"A": ""}}',
    ],
)
def test_what_is_no_bootstrap_data(text: str) -> None:
    with pytest.raises(SupervisorError) as caught:
        parse(text)
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


def test_incomplete_data_names_what_is_missing() -> None:
    files = data_of(Authority("server-ca"), Authority("client-ca"))
    for name in ("ServerCA", "ClientCA", "ClientCAKey"):
        with pytest.raises(SupervisorError, match=f"lacks {name}[.]"):
            parse(as_text({**files, name: b""}, times=False))


def _ways_to_be_bad() -> list[dict[str, bytes]]:
    good = data_of(Authority("server-ca"), Authority("client-ca"))
    locked = Authority("x").key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(SECRET)
    )
    return [
        {**good, "ClientCA": SECRET},
        {**good, "ClientCAKey": SECRET},
        {**good, "ClientCAKey": locked},
        {**good, "ServerCA": SECRET},
        {**good, "ServerCA": b"\xff"},
    ]


@pytest.mark.parametrize("files", _ways_to_be_bad(), ids=["ca", "key", "locked-key", "server-ca", "not-ascii"])
def test_cas_that_cannot_be_used(files: dict[str, bytes], tmp_path: Path) -> None:
    with pytest.raises(SupervisorError, match="cannot be used") as caught:
        admin_context(Bootstrap(files), tmp_path)
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))
    with pytest.raises(SupervisorError, match="ETCDServerCA"):
        etcd_context(Bootstrap(files), tmp_path)
    assert list(tmp_path.iterdir()) == []


async def test_a_server_that_asks_for_certificates_takes_it(tmp_path: Path) -> None:
    """Real TLS: required, of client-ca, and the server is proven by server-ca."""
    server, client = Authority("k3s-server-ca"), Authority("k3s-client-ca")
    certificate, key = server.issue(tmp_path / "serving", "serving")
    (tmp_path / "client-ca.crt").write_bytes(client.pem)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(tmp_path / "client-ca.crt"))
    tls.verify_mode = ssl.CERT_REQUIRED
    tls.load_cert_chain(certificate, key)
    seen: list[dict[str, object]] = []

    async def version(request: web.Request) -> web.Response:
        assert request.transport is not None
        seen.append(request.transport.get_extra_info("peercert"))
        return web.json_response({"gitVersion": "v1.22.2+k3s1"})

    private = tmp_path / "run"
    private.mkdir()
    async with serving([("GET", "/version", version)], tls) as url:
        made = admin_context(Bootstrap(data_of(server, client)), private)
        assert list(private.iterdir()) == [], "the key is gone from the disk"
        async with Apiserver(url, made, timeout=60) as api:
            assert await api.version() == "v1.22.2+k3s1"
        (peer,) = seen
        assert peer["subject"] == ((("organizationName", "system:masters"),), (("commonName", "system:admin"),))
        for wrong in (data_of(server, Authority("k3s-client-ca")), data_of(Authority("k3s-server-ca"), client)):
            async with Apiserver(url, admin_context(Bootstrap(wrong), private), timeout=60) as api:
                with pytest.raises(ApiserverError):
                    await api.version()
    assert len(seen) == 1 and list(private.iterdir()) == []


def test_the_certificate_is_short_lived_and_for_clients_only() -> None:
    client = Authority("k3s-client-ca")
    data = Bootstrap(data_of(Authority("k3s-server-ca"), client))
    made = bootstrap._sign(data, "ClientCA", (), ec.generate_private_key(ec.SECP256R1()))
    assert made.not_valid_after - made.not_valid_before == bootstrap.LIFETIME + bootstrap.SKEW
    usage = made.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [x509.oid.ExtendedKeyUsageOID.CLIENT_AUTH]
    assert made.issuer == client.certificate.subject


@pytest.mark.parametrize("version", ["v1.22.2+k3s1", "v1.34.1+k3s1"])
def test_a_cluster_is_opened_by_its_token(version: str, tmp_path: Path) -> None:
    """A stand-in server on a real etcd: Nodes by a certificate of ours, etcd's members by another."""
    private = tmp_path / "run"
    private.mkdir()
    with own_network("10.99.0.11"):
        server = K3s(tmp_path / "n1")
        try:
            server.settings(version=version, speed={"heartbeat_ms": 50, "election_ms": 500})
            server.cluster_init()
            server.up()
            url = f"https://{server.address}:6443"
            asyncio.run(_look(server, url, Token.parse((server.server / "token").read_text()), private, version))
        finally:
            server.clean()
    assert list(private.iterdir()) == []


async def _look(server: K3s, url: str, token: Token, private: Path, version: str) -> None:
    async with await admin(url, token, private) as api:
        assert [node.name for node in await api.nodes()] == ["n1"]
        assert await api.version() == version
    data = await fetch(url, token)
    assert node_password(data) == token.password
    if version == "v1.22.2+k3s1":  # later releases serve the gateway on loopback only
        async with EtcdClient(f"https://{server.address}:2379", etcd_context(data, private)) as etcd:
            assert [m.name.rpartition("-")[0] for m in await etcd.members()] == ["n1"]
    with pytest.raises(SupervisorError) as refused:
        await admin(url, Token(token.ca_hash, "server", "wrong"), private)
    assert refused.value.extensions["http_status"] == 401 and token.password not in str(refused.value)
    with pytest.raises(TokenError):
        await admin(url, Token("0" * 64, "server", token.password), private)
