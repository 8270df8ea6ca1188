"""The small parts of looking at a cluster: addresses, proxies, clocks, critical flags in IPv6."""

from __future__ import annotations

import email.utils
import ssl
import time
from pathlib import Path

import pytest
from aiohttp import web

from k3s_ha_agent.errors import SupervisorError
from k3s_ha_agent.k3s.configuration import effective
from k3s_ha_agent.k3s.supervisor import Encryption, clock_offset, greet, parse_encryption
from k3s_ha_agent.k3s.token import Token
from k3s_ha_agent.preflight.critical import critical_of, differences
from k3s_ha_agent.preflight.join_target import JoinTarget
from k3s_ha_agent.preflight.outside import ports_of
from k3s_ha_agent.preflight.proxies import is_exempt, of
from tests.unit.k3s.pki import Authority
from tests.unit.k3s.serving import serving
from tests.unit.preflight.joining import CONTROL, joining, member, node

TOKEN = Token.parse("K10" + "a" * 64 + "::server:hunter2")


@pytest.mark.parametrize(
    "url", ["https://10.99.0.11:6443", "https://lb.example.com:6443/", "https://[2001:db8::11]:6443"]
)
def test_addresses_that_do(url: str) -> None:
    target = JoinTarget(url, TOKEN)
    assert target.problem() is None
    assert target.port == 6443 and target.host in ("10.99.0.11", "lb.example.com", "2001:db8::11")
    assert "hunter2" not in repr(target)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "10.99.0.11:6443",
        "http://10.99.0.11:6443",
        "https://10.99.0.11",
        "https://:6443",
        "https://10.99.0.11:99999",
        "https://[::1",
        "https://10.99.0.11:6443/v1",
        "https://10.99.0.11:6443?x=1",
        "https://server:hunter2@10.99.0.11:6443",
    ],
)
def test_addresses_that_do_not(url: str) -> None:
    problem = JoinTarget(url, TOKEN).problem()
    assert problem is not None and "hunter2" not in problem


@pytest.mark.parametrize(
    ("host", "entries", "exempt"),
    [
        ("10.99.0.11", ["10.99.0.11"], True),
        ("10.99.0.11", ["10.99.0.0/24"], True),
        ("10.99.1.11", ["10.99.0.0/24"], False),
        ("10.99.0.11", ["*"], True),
        ("10.99.0.11", ["99.0.11"], False),
        ("lb.example.com", ["example.com"], True),
        ("lb.example.com", [".example.com"], True),
        ("example.com", [".example.com"], False),
        ("LB.example.com", ["lb.example.com:6443"], True),
        ("badexample.com", ["example.com"], False),
        ("lb.example.com", ["10.0.0.0/8"], False),
        ("2001:db8::1", ["2001:db8::/32"], True),
    ],
)
def test_who_is_left_out_of_a_proxy(host: str, entries: list[str], exempt: bool) -> None:
    assert is_exempt(host, entries) is exempt


def test_proxies_name_their_source_and_never_their_value() -> None:
    found = of([("a", {"HTTPS_PROXY": "http://u:hunter2@p", "no_proxy": "x"}), ("b", {"NO_PROXY": "Y, ,10.0.0.0/8"})])
    assert found.variables == ("HTTPS_PROXY in a",) and found.exempt == ("y", "10.0.0.0/8")
    assert of([("a", {"HTTPS_PROXY": "x"}), ("b", {"HTTPS_PROXY": ""})]).variables == ()


def test_the_offset_of_a_clock() -> None:
    assert clock_offset("Tue, 14 Nov 2023 22:13:20 GMT", 1_700_000_000.5) == 0.0
    assert clock_offset("Tue, 14 Nov 2023 22:14:20 GMT", 1_700_000_000.5) == 60.0
    for nonsense in ("", "yesterday"):
        assert clock_offset(nonsense, 0.0) is None


async def test_a_server_whose_clock_is_wrong(tmp_path: Path) -> None:
    authority = Authority("k3s-server-ca")
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(*authority.issue(tmp_path, "serving"))

    async def cacerts(_: web.Request) -> web.Response:
        date = email.utils.formatdate(time.time() + 3600, usegmt=True)
        return web.Response(body=authority.pem, headers={"Date": date})

    async def refusing(_: web.Request) -> web.Response:
        return web.Response(status=503, text="not yet")

    async with serving([("GET", "/cacerts", cacerts)], tls) as url:
        greeting = await greet(url, timeout=60)
    assert greeting.cacerts == authority.pem
    assert greeting.clock_offset is not None and greeting.clock_offset > 1800
    async with serving([("GET", "/cacerts", refusing)], tls) as url:
        with pytest.raises(SupervisorError, match="503: not yet"):
            await greet(url, timeout=60)


def test_secrets_encryption() -> None:
    text = '{"stage": "rotate", "enable": true, "hashmatch": false}'
    assert parse_encryption(text) == Encryption(True, "rotate", False)
    for nonsense in ("", "[]", "null"):
        with pytest.raises(SupervisorError):
            parse_encryption(nonsense)


def test_the_rest_of_a_configuration_is_not_kept() -> None:
    assert CONTROL["IPSECPSK"] not in repr(critical_of(CONTROL))


def test_what_k3s_takes_by_itself_differs_from_nothing() -> None:
    theirs = critical_of(CONTROL)
    assert differences(joining(), theirs) == []
    assert differences(joining("--cluster-cidr=10.42.7.1/16", "--cluster-dns=10.43.0.10"), theirs) == []
    assert differences(joining("--secrets-encryption=false", "--flannel-backend="), theirs) == []
    assert differences(joining(), {**theirs, "EncryptProvider": "", "SomethingNew": True}) == []


def test_what_cannot_be_read_differs() -> None:
    theirs = critical_of(CONTROL)
    for flag in ("--cluster-cidr=nonsense", "--service-cidr=nonsense", "--disable-helm-controller=perhaps"):
        assert differences(joining(flag), theirs)
    assert differences(joining(), {**theirs, "ClusterIPRanges": [{"IP": "10.42.0.0"}]})
    assert differences(joining(), {**theirs, "ClusterIPRanges": None})


def test_an_ipv6_server_has_other_defaults() -> None:
    ours = effective(["k3s", "server", "--node-ip=2001:db8::13"], [], [])
    found = differences(ours, {"ClusterIPRanges": [], "ServiceIPRanges": [], "ClusterDNSs": []})
    assert [text.split(" here")[0].split(" and ")[1] for text in found] == [
        "2001:cafe:42::/56",
        "2001:cafe:43::/112",
        "2001:cafe:43::a",
    ]


def test_the_ports_of_every_server() -> None:
    learner = member("", 13, learner=True)
    agent = node("w1", 20, roles=())
    found = ports_of([member("n1-00000001", 11), learner], [node("n1", 11), agent], 6444)
    assert [(p.host, p.port) for p in found] == [
        ("10.99.0.11", 2380),
        ("10.99.0.11", 2379),
        ("10.99.0.13", 2380),
        ("10.99.0.11", 6444),
    ]
