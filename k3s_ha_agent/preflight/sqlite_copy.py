"""A copy of the living SQLite database, looked at and thrown away.

k3s keeps running and nothing below its data dir changes: SQLite's backup API reads through the
WAL, and the integrity check, which reads everything, runs on the copy.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import threading
from collections.abc import AsyncIterator
from pathlib import Path

from k3s_ha_agent import durable
from k3s_ha_agent.errors import KineError
from k3s_ha_agent.host import lock, resources
from k3s_ha_agent.k3s import kine
from k3s_ha_agent.k3s.kine import KineSummary
from k3s_ha_agent.preflight.results import Missing, size
from k3s_ha_agent.preflight.sizes import SMALL_FILES

LOCK_LIMIT = 600.0
"""Seconds to wait for another preflight's copy to be looked at."""


async def summarize(state_db: Path, sqlite_bytes: int, state_dir: Path) -> KineSummary | Missing:
    """What a sound copy holds. Missing, seeing the check ``disk`` or ``sqlite``, when there is no
    room for it or it is not sound. OSError when the state dir cannot be used.

    ``sqlite_bytes`` is what the database and its WAL have. When cancelled, the copy is gone before
    the cancellation is raised.
    """
    await asyncio.to_thread(durable.make_directory, state_dir)
    free = (await asyncio.to_thread(resources.disk, state_dir)).free
    if free < sqlite_bytes + SMALL_FILES:
        return Missing(
            f"There is no room in {state_dir} for a copy of {size(sqlite_bytes)}: {size(free)} are free.", "disk"
        )
    async with workspace(state_dir) as directory:
        copy = directory / "state.db"
        try:
            await _backup(state_db, copy)
            return await asyncio.to_thread(_check, copy)
        except KineError as error:
            return Missing(error.detail, "sqlite", error.next_step)


def _check(copy: Path) -> KineSummary:
    kine.check(copy)
    return kine.summarize(copy)


async def _backup(source: Path, target: Path) -> None:
    """The backup in a thread that has ended when this returns or raises: its files are removed next."""
    cancel = threading.Event()
    work = asyncio.ensure_future(asyncio.to_thread(kine.backup, source, target, cancel=cancel))
    try:
        await asyncio.shield(work)
    except asyncio.CancelledError:
        cancel.set()
        await asyncio.wait({work})
        if not work.cancelled():
            work.exception()  # fetched; it is the cancellation that is reported
        raise


@contextlib.asynccontextmanager
async def workspace(state_dir: Path) -> AsyncIterator[Path]:
    """An empty 0700 directory below the state dir, for one at a time, removed at the end.

    What an agent that was killed left in it is removed at the beginning. The copy holds every
    Secret of the cluster.
    """
    directory = state_dir / "preflight"
    with await lock.acquire(state_dir / "preflight.lock", "a preflight", LOCK_LIMIT):
        try:
            await asyncio.to_thread(_make_anew, directory)
            yield directory
        finally:
            await asyncio.to_thread(_remove, directory)


def _make_anew(directory: Path) -> None:
    _remove(directory)
    directory.mkdir(mode=0o700)


def _remove(directory: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(directory)
