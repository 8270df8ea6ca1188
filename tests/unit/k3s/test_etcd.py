"""The client of the JSON gateway: recorded answers, and a real etcd with client certificates."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import ssl
import stat
import subprocess
import tracemalloc
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from k3s_ha_agent.errors import EtcdError, RevisionCompacted
from k3s_ha_agent.k3s import etcd as module
from k3s_ha_agent.k3s.etcd import (
    EtcdClient,
    EtcdKey,
    endpoint_of,
    parse_alarms,
    parse_members,
    parse_range,
    parse_status,
)
from k3s_ha_agent.k3s.layout import Layout
from tests.unit.k3s.etcd_process import running_etcd
from tests.unit.k3s.serving import hanging_server, serving


@pytest.fixture
async def client(etcd: Layout) -> AsyncIterator[EtcdClient]:
    async with EtcdClient.from_layout(etcd, timeout=60) as opened:
        yield opened


async def collect(keys: AsyncIterator[EtcdKey]) -> list[EtcdKey]:
    return [key async for key in keys]


# --- recorded answers of a real k3s ---


def test_recorded_status_members_alarms(recordings: Path) -> None:
    status = parse_status(json.loads((recordings / "etcd-status.json").read_text()))
    assert status == module.EtcdStatus(
        version="3.5.0",
        db_size=716800,
        db_in_use=704512,
        leader=3420929696581089811,
        member_id=3420929696581089811,
        raft_term=2,
        revision=402,
        is_learner=False,
    )
    (member,) = parse_members(json.loads((recordings / "etcd-member-list.json").read_text()))
    assert member.id == 3420929696581089811 == int("2f79956f264cfa13", 16)
    assert member.name == (recordings / "etcd-name").read_text().strip()
    assert member.peer_urls == ("https://10.99.0.11:2380",)
    assert not member.is_learner
    assert parse_alarms(json.loads((recordings / "etcd-alarms.json").read_text())) == []


def test_recorded_range(recordings: Path) -> None:
    keys, revision, more = parse_range((recordings / "etcd-keys.json").read_bytes())
    assert revision == 402
    assert not more
    assert [k.key for k in keys] == sorted(k.key for k in keys)
    assert keys[0].key == b"/bootstrap/d39c08e28906"
    assert keys[0].mod_revision == 342
    assert any(k.lease for k in keys), "leases are 64-bit numbers written as strings"
    sample, _, _ = parse_range((recordings / "etcd-range-sample.json").read_bytes())
    assert sample[0].key == b"/registry/configmaps/shop/kube-root-ca.crt"
    assert sample[0].value.startswith(b"k8s\0")


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{}", b'{"header":{}}', b'{"header":{"revision":"1"},"kvs":[{"key":"!!!"}]}', b"<html>"],
)
def test_range_that_is_nonsense(body: bytes) -> None:
    with pytest.raises(EtcdError):
        parse_range(body)


def test_endpoint(recordings: Path) -> None:
    recorded = (recordings / "etcd-config.yaml").read_text()
    assert endpoint_of(recorded) == "https://127.0.0.1:2379"
    newer = recorded + "listen-client-http-urls: https://127.0.0.1:2382\n"
    assert endpoint_of(newer) == "https://127.0.0.1:2382"
    assert endpoint_of("listen-client-urls: https://10.0.0.1:2379") == "https://10.0.0.1:2379"
    for bad in ("", "{}", "listen-client-urls: ''", "- a", "{"):
        with pytest.raises(EtcdError):
            endpoint_of(bad)


def test_end_of_range() -> None:
    assert module.range_end(b"/registry/") == b"/registry0"
    assert module.range_end(b"a\xff\xff") == b"b"
    assert module.range_end(b"") == module.range_end(b"\xff") == b"\0"


# --- a real etcd ---


async def test_needs_its_client_certificate(etcd: Layout, client: EtcdClient) -> None:
    assert await client.revision() >= 1
    bare = ssl.create_default_context(cafile=str(etcd.etcd_server_ca))
    async with EtcdClient(client.url, bare, timeout=60) as stranger:
        with pytest.raises(EtcdError):
            await stranger.revision()


async def test_put_get_delete(client: EtcdClient) -> None:
    first = await client.put(b"/t/a\0\xff", b"one\n\xff")
    assert await client.put(b"/t/a\0\xff", b"two") == first + 1
    found = await client.get(b"/t/a\0\xff")
    assert found is not None
    assert (found.value, found.create_revision, found.mod_revision, found.version) == (b"two", first, first + 1, 2)
    old = await client.get(b"/t/a\0\xff", revision=first)
    assert old is not None
    assert old.value == b"one\n\xff"
    assert await client.delete(b"/t/a\0\xff")
    assert not await client.delete(b"/t/a\0\xff")
    assert await client.get(b"/t/a\0\xff") is None


async def test_range_is_pinned_while_writes_go_on(client: EtcdClient) -> None:
    """Pages read while keys are changed, added and removed belong to one revision."""
    before = {b"/pin/%04d" % n: b"before %d" % n for n in range(1200)}
    for key, value in before.items():
        await client.put(key, value)
    revision = await client.revision()
    seen = {}
    disturbed = 0
    async with contextlib.aclosing(client.range(b"/pin/", page=7)) as keys:
        async for key in keys:
            seen[key.key] = key.value
            assert key.mod_revision <= revision
            if disturbed < 60:
                n = disturbed
                disturbed += 1
                await client.put(b"/pin/%04d" % (1199 - n), b"after")
                await client.put(b"/pin/0500-%d" % n, b"new")
                await client.delete(b"/pin/%04d" % (700 + n))
    assert seen == before
    assert disturbed == 60
    now = {k.key: k.value for k in await collect(client.range(b"/pin/"))}
    assert now != before
    assert {k.key: k.value for k in await collect(client.range(b"/pin/", revision=revision, page=500))} == before
    assert await client.count(b"/pin/", revision=revision) == 1200
    names = await collect(client.range(b"/pin/", revision=revision, keys_only=True))
    assert [k.key for k in names] == sorted(before)
    assert not any(k.value for k in names)


async def test_prefix_ends_where_it_ends(client: EtcdClient) -> None:
    for key in (b"/pre", b"/pre/", b"/pre/a", b"/pre/\xff\xff", b"/pre0", b"/prf"):
        await client.put(key, b"x")
    assert [k.key for k in await collect(client.range(b"/pre/", page=1))] == [b"/pre/", b"/pre/a", b"/pre/\xff\xff"]
    assert await collect(client.range(b"/nothing/")) == []
    everything = [k.key for k in await collect(client.range(b""))]
    assert everything == sorted(everything)
    assert b"/prf" in everything


async def test_big_values_come_in_small_pages(client: EtcdClient) -> None:
    """More in one page than the gateway takes from etcd: it is asked for less, and nothing is lost."""
    size = 1_400_000
    for n in range(12):
        await client.put(b"/big/%02d" % n, b"%02d" % n * (size // 2))
    keys = await collect(client.range(b"/big/", page=500))
    assert [(k.key, k.value[:2], len(k.value)) for k in keys] == [
        (b"/big/%02d" % n, b"%02d" % n, size) for n in range(12)
    ]
    for n in range(12):
        await client.delete(b"/big/%02d" % n)


async def test_range_keeps_memory_flat(client: EtcdClient) -> None:
    value = bytes(16 * 1024)
    for n in range(1500):
        await client.put(b"/flat/%05d" % n, value)
    tracemalloc.start()
    try:
        total = 0
        async for key in client.range(b"/flat/"):
            total += len(key.value)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert total == 1500 * len(value)
    assert peak < total / 2, f"{peak} bytes to read {total}"


async def test_compacted_revision(client: EtcdClient) -> None:
    for n in range(300):
        await client.put(b"/compact/%03d" % n, b"x")
    revision = await client.revision()
    with pytest.raises(RevisionCompacted):
        async for _ in client.range(b"/compact/", page=5, revision=revision):
            later = await client.put(b"/compact/000", b"y")
            await client.compact(later)
    with pytest.raises(RevisionCompacted):
        await client.get(b"/compact/001", revision=revision)
    with pytest.raises(EtcdError) as future:
        await client.get(b"/compact/001", revision=revision + 1_000_000)
    assert not isinstance(future.value, RevisionCompacted)


async def test_status_and_members(client: EtcdClient) -> None:
    status = await client.status()
    (member,) = await client.members()
    assert status.version.startswith("3.")
    assert status.leader == status.member_id == member.id
    assert status.db_size >= status.db_in_use > 0
    assert status.revision == await client.revision()
    assert not status.is_learner
    assert member.name == "n1-test"
    assert member.client_urls == (client.url,)
    with pytest.raises(EtcdError, match="refused /v3/cluster/member/remove"):
        await client.member_remove(12345)


async def test_leases(client: EtcdClient) -> None:
    lease = await client.lease_grant(300)
    await client.put(b"/lease/a", b"x", lease=lease)
    found = await client.get(b"/lease/a")
    assert found is not None
    assert found.lease == lease
    assert 0 < await client.lease_ttl(lease) <= 300
    assert await client.lease_ttl(lease + 1) == -1
    with pytest.raises(EtcdError, match="requested lease not found"):
        await client.put(b"/lease/b", b"x", lease=lease + 1)


async def test_snapshot_is_whole_and_private(client: EtcdClient, tmp_path: Path) -> None:
    await client.put(b"/snap/marker", b"in the snapshot" * 1000)
    target = tmp_path / "snapshot.db"
    target.write_bytes(b"an older one")
    await client.snapshot(target)
    data = target.read_bytes()
    assert hashlib.sha256(data[:-32]).digest() == data[-32:]
    assert b"in the snapshot" in data
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert [p.name for p in tmp_path.iterdir()] == ["snapshot.db"]
    told = subprocess.run(
        ["/usr/bin/etcdctl", "snapshot", "status", str(target), "--write-out=json"],
        env={"ETCDCTL_API": "3"},
        capture_output=True,
        check=True,
        timeout=60,
    )
    assert json.loads(told.stdout)["totalKey"] > 0


async def test_alarm_when_the_quota_is_used_up(tmp_path: Path) -> None:
    with running_etcd(tmp_path, "--quota-backend-bytes=200000") as layout:
        async with EtcdClient.from_layout(layout, timeout=60) as client:
            assert await client.alarms() == []
            with pytest.raises(EtcdError, match="database space exceeded"):
                for n in range(1000):
                    await client.put(b"/fill/%d" % n, bytes(50_000))
            assert await client.alarms() == ["NOSPACE"]
            assert [k.key async for k in client.range(b"/fill/")], "reading goes on"


async def test_etcd_that_is_gone(tmp_path: Path) -> None:
    with running_etcd(tmp_path) as layout:
        client = EtcdClient.from_layout(layout, timeout=60)
        await client.revision()
    async with client:
        for _ in range(2):  # an open connection first, then none
            with pytest.raises(EtcdError):
                await client.revision()


# --- servers that misbehave ---


async def test_server_that_never_answers() -> None:
    async with hanging_server() as url, EtcdClient(url, None, timeout=0.3) as client:
        with pytest.raises(EtcdError, match="did not answer POST /v3/kv/range within 300ms"):
            await client.revision()
        with pytest.raises(EtcdError, match="did not answer"):
            await client.snapshot(Path("/nonexistent/never"))
        with pytest.raises(EtcdError, match="did not answer"):
            await collect(client.range(b"/"))


async def test_server_that_stops_in_the_middle(tmp_path: Path) -> None:
    """A page and a snapshot that begin and never end."""

    async def trickle(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b'{"result":{"remaining_bytes":"100","blob":"AAAA"}}\n')
        await asyncio.sleep(3600)
        return response

    async with serving([("POST", "/{path:.*}", trickle)]) as url, EtcdClient(url, None, timeout=0.3) as client:
        with pytest.raises(EtcdError, match="did not answer"):
            await collect(client.range(b"/"))
        with pytest.raises(EtcdError, match="did not answer"):
            await client.snapshot(tmp_path / "snapshot.db")
    assert list(tmp_path.iterdir()) == []


def _lines(*messages: object) -> bytes:
    return b"".join(json.dumps(m).encode() + b"\n" for m in messages)


def _piece(blob: bytes, remaining: int) -> object:
    return {"result": {"remaining_bytes": str(remaining), "blob": base64.b64encode(blob).decode()}}


_DATABASE = bytes(range(256)) * 4
_GOOD_HASH = hashlib.sha256(_DATABASE).digest()


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        (_lines(_piece(_DATABASE, 0), _piece(_GOOD_HASH, 0)), None),
        (_lines(_piece(_DATABASE, 0), _piece(hashlib.sha256(b"other").digest(), 0)), "SHA-256 does not fit"),
        (_lines(_piece(_DATABASE[:-1] + b"x", 0), _piece(_GOOD_HASH, 0)), "SHA-256 does not fit"),
        (_lines(_piece(_DATABASE, 0)), "no whole database"),
        (_lines(_piece(_DATABASE, 512)), "512 bytes are missing"),
        (_lines(_piece(_DATABASE, 0), _piece(_GOOD_HASH, 0))[:-20], "cut short"),
        (_lines(_piece(_DATABASE, 1), {"error": {"message": "leader went away"}}), "leader went away"),
        (b"", "no whole database"),
        (b"<html>\n", "not understood"),
    ],
)
async def test_snapshot_is_checked(body: bytes, complaint: str | None, tmp_path: Path) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(body=body)

    target = tmp_path / "snapshot.db"
    target.write_bytes(b"older")
    async with serving([("POST", "/v3/maintenance/snapshot", answer)]) as url:
        async with EtcdClient(url, None, timeout=60) as client:
            if complaint is None:
                await client.snapshot(target)
                assert target.read_bytes() == _DATABASE + _GOOD_HASH
            else:
                with pytest.raises(EtcdError, match=complaint):
                    await client.snapshot(target)
                assert target.read_bytes() == b"older"
    assert [p.name for p in tmp_path.iterdir()] == ["snapshot.db"]


async def test_snapshot_to_a_place_that_is_not_there(client: EtcdClient, tmp_path: Path) -> None:
    with pytest.raises(EtcdError, match="cannot be written to"):
        await client.snapshot(tmp_path / "missing" / "snapshot.db")


async def test_etcd_that_says_more_and_sends_nothing() -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.json_response({"header": {"revision": "5"}, "more": True})

    async with serving([("POST", "/v3/kv/range", answer)]) as url, EtcdClient(url, None, timeout=60) as client:
        with pytest.raises(EtcdError, match="sends none"):
            await collect(client.range(b"/"))


def test_layout_without_etcd(tmp_path: Path) -> None:
    with pytest.raises(EtcdError, match="cannot be read"):
        EtcdClient.from_layout(Layout(tmp_path))
