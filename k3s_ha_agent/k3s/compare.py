"""Comparing a kine database with etcd, key by key, both streamed in byte order.

Nothing is kept but the batch of rows at hand and one key of etcd; what differs is counted, and
the first names are kept for people.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import threading
from collections.abc import AsyncIterator, Callable, Iterator

from k3s_ha_agent.errors import EtcdError, KineError
from k3s_ha_agent.k3s.etcd import EtcdKey
from k3s_ha_agent.k3s.kine import Row

NAMED = 20
"""How many names of each list are kept."""
_BATCH_ROWS = 256
_BATCH_BYTES = 1024 * 1024


@dataclasses.dataclass(slots=True)
class Comparison:
    equal: int = 0
    missing: list[str] = dataclasses.field(default_factory=list)
    """Keys of the kine database that etcd does not have, the first of them."""
    extra: list[str] = dataclasses.field(default_factory=list)
    """Keys of etcd that the kine database does not have, the first of them."""
    different: list[str] = dataclasses.field(default_factory=list)
    """Keys in both with another value, the first of them."""
    missing_count: int = 0
    extra_count: int = 0
    different_count: int = 0

    @property
    def same(self) -> bool:
        """Whether both sides hold the same keys with the same values."""
        return not (self.missing_count or self.extra_count or self.different_count)


async def compare(
    rows: Iterator[Row],
    keys: AsyncIterator[EtcdKey],
    *,
    progress: Callable[[int], None] | None = None,
) -> Comparison:
    """Names and values of both sides. ``rows`` blocks and is advanced in threads, in batches.

    ``progress`` gets the number of rows compared so far. Both sides are closed at the end,
    whatever happens. KineError or EtcdError when a side is not in strict byte order, for then
    nothing said about it would be true; what the sides raise themselves is passed on.
    """
    result = Comparison()
    batches = _Batches(rows)
    other = _Ordered(keys)
    try:
        key = await other.next()
        compared = 0
        while batch := await batches.next():
            for row in batch:
                while key is not None and key.key < row.key:
                    _note(result.extra, key.key)
                    result.extra_count += 1
                    key = await other.next()
                if key is None or key.key > row.key:
                    _note(result.missing, row.key)
                    result.missing_count += 1
                    continue
                if key.value == row.value:
                    result.equal += 1
                else:
                    _note(result.different, row.key)
                    result.different_count += 1
                key = await other.next()
            compared += len(batch)
            if progress is not None:
                progress(compared)
        while key is not None:
            _note(result.extra, key.key)
            result.extra_count += 1
            key = await other.next()
    finally:
        # Shielded: a second cancellation must not leave the read transaction of the rows open.
        await asyncio.shield(asyncio.gather(batches.close(), other.close()))
    return result


def _note(names: list[str], key: bytes) -> None:
    if len(names) < NAMED:
        names.append(key.decode("utf-8", "backslashreplace"))


class _Batches:
    """A blocking iterator, advanced by one thread at a time."""

    def __init__(self, rows: Iterator[Row]) -> None:
        self._rows = rows
        self._last: bytes | None = None
        # A cancelled wait leaves its thread running: closing has to wait for it.
        self._lock = threading.Lock()

    async def next(self) -> list[Row]:
        return await asyncio.to_thread(self._take)

    def _take(self) -> list[Row]:
        batch: list[Row] = []
        size = 0
        with self._lock:
            for row in self._rows:
                if self._last is not None and row.key <= self._last:
                    raise KineError(f"The rows of the kine database are not in order at {row.key!r}.")
                self._last = row.key
                batch.append(row)
                size += len(row.value)
                if len(batch) >= _BATCH_ROWS or size >= _BATCH_BYTES:
                    break
        return batch

    async def close(self) -> None:
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        with self._lock, contextlib.ExitStack() as stack:
            if close := getattr(self._rows, "close", None):
                stack.callback(close)


class _Ordered:
    """An async iterator whose keys must grow."""

    def __init__(self, keys: AsyncIterator[EtcdKey]) -> None:
        self._keys = keys
        self._last: bytes | None = None

    async def next(self) -> EtcdKey | None:
        key = await anext(self._keys, None)
        if key is not None:
            if self._last is not None and key.key <= self._last:
                raise EtcdError(f"The keys of etcd are not in order at {key.key!r}.")
            self._last = key.key
        return key

    async def close(self) -> None:
        if close := getattr(self._keys, "aclose", None):
            await close()
