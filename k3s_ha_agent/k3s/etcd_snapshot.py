"""Receiving an etcd snapshot and proving that it is whole.

``/v3/maintenance/snapshot`` sends the backend database in pieces, one JSON object a line, and as
its last 32 bytes the SHA-256 of all before them (etcd, server/etcdserver/api/v3rpc/maintenance.go).
``etcdctl snapshot restore`` and k3s expect those 32 bytes at the end of the file, so they stay.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import json
import os
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import IO, ParamSpec, TypeVar

from k3s_ha_agent import durable
from k3s_ha_agent.errors import EtcdError

P = ParamSpec("P")
T = TypeVar("T")

_TRAILER = hashlib.sha256().digest_size
_SECTOR = 512
"""A backend database is whole pages; etcdctl takes ``size % 512 == 32`` for "the hash is there"."""
_PIECE = 1024 * 1024


class _Checked:
    """A file that hashes all but the last 32 bytes written to it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        # A cancelled wait leaves its thread writing: closing has to wait for it, or the
        # descriptor could be somebody else's by then.
        self._lock = threading.Lock()
        self._sha = hashlib.sha256()
        self._tail = b""
        self.size = 0

    def write(self, data: bytes) -> None:
        with self._lock:
            view = memoryview(data)
            while view and not self._file.closed:
                view = view[self._file.write(view) :]
        self.size += len(data)
        seen = self._tail + data
        self._sha.update(seen[:-_TRAILER])
        self._tail = seen[-_TRAILER:]

    def close(self) -> None:
        with self._lock:
            self._file.close()

    def problem(self) -> str | None:
        if self.size % _SECTOR != _TRAILER:
            return f"{self.size} bytes are no whole database with its hash"
        if self._sha.digest() != self._tail:
            return "its SHA-256 does not fit its content"
        return None


async def receive(pieces: AsyncIterator[bytes], target: Path, *, source: str) -> None:
    """Write a snapshot to ``target``, 0600 and durable, in place of one that was there.

    ``pieces`` is the body of the answer. EtcdError when it ends early, carries an error or does
    not match its hash; the target is then as it was.
    """
    temporary = target.with_name(f".{target.name}.tmp")
    checked = _Checked(await _on_disk(target, _create, temporary))
    try:
        try:
            remaining = await _copy(pieces, checked, source, target)
        finally:
            await _on_disk(target, checked.close)
        problem = f"{remaining} bytes are missing" if remaining else checked.problem()
        if problem:
            raise EtcdError(f"The snapshot of {source} cannot be used: {problem}.", next_step="Take it again.")
        await _on_disk(target, _publish, temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


async def _on_disk(target: Path, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run disk work in a thread and tell its errors from those of the network."""
    try:
        return await asyncio.to_thread(function, *args, **kwargs)
    except OSError as error:
        raise EtcdError(f"The snapshot cannot be written to {target}: {error.strerror}.") from error


def _create(path: Path) -> IO[bytes]:
    path.unlink(missing_ok=True)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    return os.fdopen(fd, "wb", buffering=0)


def _publish(temporary: Path, target: Path) -> None:
    durable.sync_file(temporary)
    durable.rename(temporary, target)


async def _copy(pieces: AsyncIterator[bytes], checked: _Checked, source: str, target: Path) -> int:
    """Bytes the sender still wanted to send when it stopped."""
    remaining = 0
    rest = b""
    pending = bytearray()
    async for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            if line.strip():
                blob, remaining = _parse(line, source)
                pending += blob
        if len(pending) >= _PIECE:
            await _on_disk(target, checked.write, bytes(pending))
            pending.clear()
    if rest.strip():
        blob, remaining = _parse(rest, source)
        pending += blob
    await _on_disk(target, checked.write, bytes(pending))
    return remaining


def _parse(line: bytes, source: str) -> tuple[bytes, int]:
    try:
        message = json.loads(line)
        if "error" in message:
            raise EtcdError(f"etcd broke the snapshot of {source} off: {message['error'].get('message', '')}.")
        result = message["result"]
        return base64.b64decode(result.get("blob", ""), validate=True), int(result.get("remaining_bytes", 0))
    except (ValueError, KeyError, TypeError, AttributeError, binascii.Error) as error:
        raise EtcdError(f"The snapshot of {source} is cut short or not understood.") from error
