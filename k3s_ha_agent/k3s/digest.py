"""One digest for a set of keys and values, the same whatever datastore they were read from.

Fed in byte order of the keys, from a kine database or from an etcd range alike. The digest of
each prefix and of the whole is SHA-256 over, for every key: the length of the key (8 bytes, big
endian), the key, the length of the value (8 bytes, big endian), the value.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True, slots=True)
class Digests:
    total: str
    """SHA-256, hex, over every key and value."""
    count: int
    per_prefix: Mapping[str, tuple[int, str]]
    """For each prefix (``/registry/configmaps/``): the number of its keys and their SHA-256, hex."""


class Digester:
    """Takes keys and values in byte order and keeps none of them."""

    def __init__(self) -> None:
        self._total = hashlib.sha256()
        self._count = 0
        self._last: bytes | None = None
        self._finished: dict[str, tuple[int, str]] = {}
        self._prefix: bytes | None = None
        self._prefix_hash = hashlib.sha256()
        self._prefix_count = 0

    def add(self, key: bytes, value: bytes) -> None:
        """Add one key. ValueError when it does not follow the one before in byte order."""
        if self._last is not None and key <= self._last:
            raise ValueError(f"key {key!r} does not follow {self._last!r} in byte order")
        self._last = key
        prefix = prefix_of(key)
        if prefix != self._prefix:
            self._finish_prefix()
            self._prefix = prefix
            self._prefix_hash = hashlib.sha256()
            self._prefix_count = 0
        for part in (key, value):
            length = len(part).to_bytes(8, "big")
            for digest in (self._total, self._prefix_hash):
                digest.update(length)
                digest.update(part)
        self._count += 1
        self._prefix_count += 1

    def result(self) -> Digests:
        """The digests of what was added so far."""
        self._finish_prefix()
        return Digests(self._total.hexdigest(), self._count, dict(self._finished))

    def _finish_prefix(self) -> None:
        if self._prefix is not None:
            name = self._prefix.decode("utf-8", "backslashreplace")
            self._finished[name] = (self._prefix_count, self._prefix_hash.hexdigest())


def prefix_of(key: bytes) -> bytes:
    """The first two segments of a key, ``/registry/configmaps/``; the whole key when it has fewer."""
    end = -1
    for _ in range(3):
        end = key.find(b"/", end + 1)
        if end < 0:
            return key
    return key[: end + 1]
