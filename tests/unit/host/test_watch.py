from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

from k3s_ha_agent.host.watch import _QUIET, DirectoryWatch

T = TypeVar("T")
LONG = 60.0
NEVER = 3600.0
"""A poll that does not come within a test: what is seen then was seen by an event."""


def exists(path: Path) -> Callable[[], bool | None]:
    return lambda: True if path.exists() else None


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(LONG):
        while not condition():
            await asyncio.sleep(0.01)


async def seen(watch: DirectoryWatch, predicate: Callable[[], T | None], *, poll: float = NEVER) -> T:
    async with asyncio.timeout(LONG):
        return await watch.wait_for(predicate, poll=poll)


async def test_true_at_once_needs_no_event(tmp_path: Path) -> None:
    async with DirectoryWatch(tmp_path) as watch:
        assert await seen(watch, lambda: "value") == "value"
        assert await seen(watch, lambda: 0) == 0, "only None means: not yet"


async def test_event_wakes_it(tmp_path: Path) -> None:
    async with DirectoryWatch(tmp_path) as watch:
        waiting = asyncio.create_task(seen(watch, exists(tmp_path / "x")))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        (tmp_path / "x").touch()
        assert await waiting


async def test_rename_wakes_it(tmp_path: Path) -> None:
    (tmp_path / "state.db").touch()
    inode = (tmp_path / "state.db").stat().st_ino
    async with DirectoryWatch(tmp_path) as watch:
        target = tmp_path / "state.db.migrated"
        waiting = asyncio.create_task(seen(watch, lambda: target.stat().st_ino if target.exists() else None))
        await asyncio.sleep(0.1)
        (tmp_path / "state.db").rename(target)
        assert await waiting == inode


async def test_directories_below_are_watched_as_they_come(tmp_path: Path) -> None:
    """db/etcd/member/wal: none of it is there at first. Each step brings the watch for the next."""
    db = tmp_path / "server" / "db"
    async with DirectoryWatch(db, "etcd", "etcd/member") as watch:
        waiting = asyncio.create_task(seen(watch, exists(db / "etcd/member/wal")))
        for directory in (db.parent, db, db / "etcd", db / "etcd/member", db / "etcd/member/wal"):
            await until(lambda: not watch._stale())
            assert not waiting.done()
            directory.mkdir()
        assert await waiting


def moving() -> bool:
    return any(thread.name == "watch" for thread in threading.enumerate())


async def test_made_while_the_watch_moves_to_it(tmp_path: Path) -> None:
    """The event comes before the waiting one knows that it is watching: it counts all the same."""
    for number in range(8):
        server = tmp_path / str(number)
        db = server / "db"
        async with DirectoryWatch(db) as watch:
            waiting = asyncio.create_task(seen(watch, exists(db / "etcd")))
            await until(lambda: not moving())
            server.mkdir()
            while watch._stale() and not moving():
                await asyncio.sleep(0)
            for _ in range(1000):  # not a moment for the event loop
                if not watch._stale():
                    break
                time.sleep(0.001)
            db.mkdir()
            time.sleep(0.05)
            await until(lambda watch=watch: not watch._stale())
            (db / "etcd").mkdir()
            assert await waiting


async def test_directory_renamed_away_and_made_again(tmp_path: Path) -> None:
    db = tmp_path / "db"
    db.mkdir()
    async with DirectoryWatch(db) as watch:
        waiting = asyncio.create_task(seen(watch, exists(db / "new"), poll=0.05))
        await asyncio.sleep(0.1)
        db.rename(tmp_path / "quarantine")
        (tmp_path / "quarantine" / "new").touch()
        db.mkdir()
        await until(lambda: not watch._stale())
        assert list(watch._watched) == [db] and watch._watched[db][0][1] == db.stat().st_ino
        await asyncio.sleep(0.2)
        assert not waiting.done(), "the old directory does not count"
        (db / "new").touch()
        assert await waiting
        waiting = asyncio.create_task(seen(watch, exists(db / "newer")))
        await asyncio.sleep(0.1)
        (db / "newer").touch()
        assert await waiting, "events come from the new directory"


async def test_directory_removed(tmp_path: Path) -> None:
    db = tmp_path / "db"
    db.mkdir()
    async with DirectoryWatch(db) as watch:
        waiting = asyncio.create_task(seen(watch, lambda: None if db.exists() else True))
        await asyncio.sleep(0.1)
        shutil.rmtree(db)
        assert await waiting


async def test_no_event_at_all(tmp_path: Path) -> None:
    """As after an overflow of the queue: the look that needs no event finds it."""
    async with DirectoryWatch(tmp_path) as watch:
        watch._observer.unschedule_all()
        waiting = asyncio.create_task(seen(watch, exists(tmp_path / "x"), poll=0.05))
        await asyncio.sleep(0.1)
        (tmp_path / "x").touch()
        assert await waiting


async def test_many_events_are_few_looks(tmp_path: Path) -> None:
    looks = 0

    def look() -> bool | None:
        nonlocal looks
        looks += 1
        return exists(tmp_path / "end")()

    async with DirectoryWatch(tmp_path) as watch:
        waiting = asyncio.create_task(seen(watch, look))
        await asyncio.sleep(0.1)

        def write() -> None:
            for n in range(3000):
                (tmp_path / "wal").write_text(str(n))
            (tmp_path / "end").touch()

        began = time.monotonic()
        await asyncio.to_thread(write)
        assert await waiting
    assert looks <= (time.monotonic() - began) / _QUIET + 3


async def test_exception_of_the_predicate_comes_out(tmp_path: Path) -> None:
    def fail() -> None:
        raise PermissionError("no")

    async with DirectoryWatch(tmp_path) as watch:
        with pytest.raises(PermissionError):
            await seen(watch, fail)


async def test_nothing_is_left(tmp_path: Path) -> None:
    async def use() -> None:
        async with DirectoryWatch(tmp_path, "a", "b") as watch:
            (tmp_path / "a").mkdir(exist_ok=True)
            await seen(watch, exists(tmp_path / "a"))

    def ours() -> tuple[int, int]:
        return len(os.listdir("/proc/self/fd")), threading.active_count()

    await use()
    before = ours()
    for _ in range(5):
        await use()
    await until(lambda: ours() <= before)  # the last thread has said that it is done, and ends


SCRIPT = """
import asyncio, sys, structlog
from pathlib import Path
from k3s_ha_agent.host.watch import DirectoryWatch
structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
async def main():
    target = Path(sys.argv[1])
    async with DirectoryWatch(target.parent) as watch:
        print("polling only" if watch.polling_only else "events", flush=True)
        async with asyncio.timeout(60):
            for n in range(3):
                await watch.wait_for(lambda: True if target.with_suffix(f".{n}").exists() else None, poll=0.05)
                print("seen", n, flush=True)
asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("fault", "mode", "warnings"),
    [
        ("inotify_init,inotify_init1:error=EMFILE", "polling only", {1}),
        ("inotify_add_watch:error=ENOSPC", "polling only", {1}),
        ("inotify_add_watch:retval=1", "events", {0, 1}),
    ],
    ids=["no inotify instance left", "no watch left", "watch that never tells"],
)
def test_inotify_fails(tmp_path: Path, fault: str, mode: str, warnings: set[int]) -> None:
    """The kernel refuses, or accepts and stays silent (watchdog 2 cannot even end then); strace makes it do so."""
    traced = ["strace", "-f", "-qq", "-e", "trace=/inotify", "-e", f"inject={fault}", "-o", os.devnull]
    child = subprocess.Popen(
        [*traced, sys.executable, "-c", SCRIPT, str(tmp_path / "x")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline().strip() == mode
        for n in range(3):
            (tmp_path / f"x.{n}").touch()
            assert child.stdout.readline().strip() == f"seen {n}"
        _, errors = child.communicate(timeout=LONG)
    finally:
        child.kill()
        child.wait()
    assert child.returncode == 0, errors
    assert errors.count("cannot be watched by inotify") in warnings, "said once, and not for each look"
