"""A kine database against etcd, key by key; with a real etcd and with made streams."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from k3s_ha_agent.errors import EtcdError, KineError
from k3s_ha_agent.k3s import kine
from k3s_ha_agent.k3s.compare import Comparison, compare
from k3s_ha_agent.k3s.digest import Digester, Digests
from k3s_ha_agent.k3s.etcd import EtcdClient, EtcdKey
from k3s_ha_agent.k3s.layout import Layout
from tests.unit.k3s.databases import execute


def row(key: str, value: bytes = b"v") -> kine.Row:
    return kine.Row(key.encode(), value, 1, 1, 0)


def etcd_key(key: str, value: bytes = b"v") -> EtcdKey:
    return EtcdKey(key.encode(), value, 1, 1, 1, 0)


async def stream(keys: list[EtcdKey]) -> AsyncIterator[EtcdKey]:
    for key in keys:
        await asyncio.sleep(0)
        yield key


async def compared(rows: list[kine.Row], keys: list[EtcdKey]) -> Comparison:
    return await compare(iter(rows), stream(keys))


# --- made streams ---


async def test_every_kind_of_difference() -> None:
    rows = [row("b"), row("c"), row("d", b"1"), row("e"), row("g")]
    keys = [etcd_key("a"), etcd_key("b"), etcd_key("d", b"2"), etcd_key("e"), etcd_key("f"), etcd_key("h")]
    found = await compared(rows, keys)
    assert found == Comparison(
        equal=2,
        missing=["c", "g"],
        extra=["a", "f", "h"],
        different=["d"],
        missing_count=2,
        extra_count=3,
        different_count=1,
    )
    assert not found.same


async def test_the_same_and_nothing() -> None:
    assert (await compared([], [])).same
    both = await compared([row(f"{n:04}") for n in range(1000)], [etcd_key(f"{n:04}") for n in range(1000)])
    assert both.same
    assert both.equal == 1000
    for rows, keys in (([row("a")], []), ([], [etcd_key("a")])):
        assert not (await compared(rows, keys)).same


async def test_names_are_limited_and_counts_are_not() -> None:
    many = await compared([row(f"{n:04}") for n in range(700)], [])
    assert many.missing_count == 700
    assert many.missing == [f"{n:04}" for n in range(20)]


@pytest.mark.parametrize("names", [("b", "a"), ("a", "a")])
async def test_disorder_is_refused(names: tuple[str, str]) -> None:
    with pytest.raises(KineError, match="not in order"):
        await compared([row(n) for n in names], [])
    with pytest.raises(EtcdError, match="not in order"):
        await compared([], [etcd_key(n) for n in names])


class Rows:
    """Rows whose origin can be watched: threads, closing, how far it was read."""

    def __init__(self, count: int, size: int = 1, gate: threading.Event | None = None) -> None:
        self.threads: set[int] = set()
        self.closed = False
        self._count, self._size, self._gate = count, size, gate
        self.entered = threading.Event()

    def rows(self) -> Iterator[kine.Row]:
        try:
            for n in range(self._count):
                self.threads.add(threading.get_ident())
                self.entered.set()
                if self._gate is not None:
                    self._gate.wait(60)
                yield row(f"{n:06}", bytes(self._size))
        finally:
            self.closed = True


async def test_rows_are_read_in_threads_and_closed() -> None:
    source = Rows(1000)
    rows = source.rows()  # kept: it must be closed, not just forgotten
    steps: list[int] = []
    await compare(rows, stream([]), progress=steps.append)
    assert threading.get_ident() not in source.threads
    assert source.closed
    assert steps == sorted(steps)
    assert steps[-1] == 1000
    assert len(steps) > 2


async def test_values_are_not_kept() -> None:
    size, count = 100_000, 400
    source = Rows(count, size)

    async def keys() -> AsyncIterator[EtcdKey]:
        for n in range(count):
            yield etcd_key(f"{n:06}", bytes(size))

    tracemalloc.start()
    try:
        found = await compare(source.rows(), keys())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found.equal == count
    assert peak < 6_000_000, f"{peak} bytes for {count * size}"


async def test_event_loop_is_free_while_rows_are_slow() -> None:
    gate = threading.Event()
    source = Rows(3, gate=gate)
    task = asyncio.create_task(compare(source.rows(), stream([])))
    while not source.entered.is_set():
        await asyncio.sleep(0.01)
    for _ in range(100):  # the loop turns while the thread waits
        await asyncio.sleep(0)
    assert not task.done()
    gate.set()
    assert (await task).missing_count == 3


async def test_cancelled_while_a_thread_is_reading() -> None:
    gate = threading.Event()
    source = Rows(3, gate=gate)
    closed = asyncio.Event()

    async def keys() -> AsyncIterator[EtcdKey]:
        try:
            yield etcd_key("a")
            await asyncio.sleep(3600)
        finally:
            closed.set()

    rows, other = source.rows(), keys()  # kept: they must be closed, not just forgotten
    task = asyncio.create_task(compare(rows, other))
    while not source.entered.is_set():
        await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.sleep(0.05)
    gate.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert source.closed
    assert closed.is_set()


async def test_error_of_a_side_closes_the_other() -> None:
    source = Rows(1000)

    async def broken() -> AsyncIterator[EtcdKey]:
        yield etcd_key("000000", bytes(1))
        raise EtcdError("gone")

    rows = source.rows()
    with pytest.raises(EtcdError, match="gone"):
        await compare(rows, broken())
    assert source.closed


# --- the recorded database and a real etcd ---


async def digests(keys: AsyncIterator[EtcdKey]) -> Digests:
    digester = Digester()
    async for key in keys:
        digester.add(key.key, key.value)
    return digester.result()


@pytest.fixture
async def copied(etcd: Layout, recorded_db: Path) -> AsyncIterator[tuple[EtcdClient, int]]:
    """An etcd with the recorded keys as k3s's own conversion puts them, and the revision it ended on."""
    async with EtcdClient.from_layout(etcd, timeout=60) as client:
        async for old in client.range(b"/registry/", keys_only=True):
            await client.delete(old.key)
        for one in list(kine.live_rows(recorded_db)):
            await client.put(one.key, one.value)
        revision = await client.revision()
        await client.put(b"/bootstrap/d39c08e28906", b"x")
        yield client, revision


async def test_recording_equals_its_copy(copied: tuple[EtcdClient, int], recorded_db: Path) -> None:
    client, revision = copied
    steps: list[int] = []
    found = await compare(
        kine.live_rows(recorded_db), client.range(b"/registry/", revision=revision, page=50), progress=steps.append
    )
    assert found == Comparison(equal=340)
    assert steps[-1] == 340
    assert await digests(client.range(b"/registry/", revision=revision)) == kine.digests(recorded_db)


async def test_later_writes_do_not_blur_it(copied: tuple[EtcdClient, int], recorded_db: Path) -> None:
    client, revision = copied
    await client.put(b"/registry/health", b"other")
    await client.put(b"/registry/new", b"x")
    await client.delete(b"/registry/namespaces/default")
    assert (await compare(kine.live_rows(recorded_db), client.range(b"/registry/", revision=revision))).same
    now = await compare(kine.live_rows(recorded_db), client.range(b"/registry/"))
    assert (now.missing, now.extra, now.different) == (
        ["/registry/namespaces/default"],
        ["/registry/new"],
        ["/registry/health"],
    )
    assert (now.missing_count, now.extra_count, now.different_count, now.equal) == (1, 1, 1, 338)


@pytest.mark.parametrize(
    ("statement", "kind"),
    [
        ("UPDATE kine SET value = x'00' || substr(value, 2) WHERE name = '/registry/namespaces/default'", "different"),
        (
            "UPDATE kine SET name = '/registry/namespaces/defaulu' WHERE name = '/registry/namespaces/default'",
            "missing",
        ),
        ("DELETE FROM kine WHERE name = '/registry/namespaces/default'", "extra"),
    ],
)
async def test_one_value_name_or_count(
    copied: tuple[EtcdClient, int], recorded_db: Path, statement: str, kind: str
) -> None:
    client, revision = copied
    execute(recorded_db, (statement, ()))
    found = await compare(kine.live_rows(recorded_db), client.range(b"/registry/", revision=revision))
    assert not found.same
    assert getattr(found, f"{kind}_count") == 1
    ours, theirs = kine.digests(recorded_db), await digests(client.range(b"/registry/", revision=revision))
    assert ours.total != theirs.total
    differing = {p for p in ours.per_prefix | theirs.per_prefix if ours.per_prefix.get(p) != theirs.per_prefix.get(p)}
    assert differing == {"/registry/namespaces/"}


async def test_nothing_stays_open(copied: tuple[EtcdClient, int], recorded_db: Path) -> None:
    client, _ = copied
    before = {os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if _is_link(fd)}
    await client.delete(b"/registry/namespaces/default")
    rows = kine.live_rows(recorded_db)
    task = asyncio.create_task(compare(rows, client.range(b"/registry/"), progress=lambda _: task.cancel()))
    with pytest.raises(asyncio.CancelledError):
        await task
    after = {os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if _is_link(fd)}
    assert not any(str(recorded_db) in target for target in after - before)


def _is_link(fd: str) -> bool:
    with contextlib.suppress(OSError):
        os.readlink(f"/proc/self/fd/{fd}")
        return True
    return False
