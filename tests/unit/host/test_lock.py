from __future__ import annotations

import asyncio
import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from k3s_ha_agent.errors import LockHeld
from k3s_ha_agent.host import lock, resources

LONG = 60.0
HOLD = """
import asyncio, sys
from pathlib import Path
from k3s_ha_agent.host import lock
held = asyncio.run(lock.acquire(Path(sys.argv[1]), "agent", 0))
print("held", flush=True)
sys.stdin.readline()
"""


def hold(path: Path) -> subprocess.Popen[str]:
    child = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None and child.stdout.readline() == "held\n"
    return child


def stamp(path: Path, **changed: Any) -> None:
    ours = {"pid": os.getpid(), "start_time": resources.process_start_time(os.getpid()), "boot_id": resources.boot_id()}
    path.write_text(json.dumps({**ours, "who": "agent", "since": "2026-01-01T00:00:00.000Z", **changed}))


async def test_one_holder(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with await lock.acquire(path, "agent", 0):
        found = lock.owner(path)
        assert found is not None and (found.pid, found.who, found.alive) == (os.getpid(), "agent", True)
        assert path.stat().st_mode & 0o777 == 0o600
        with pytest.raises(LockHeld, match=f"held by agent, process {os.getpid()}, since"):
            await lock.acquire(path, "rescue", 0.3)
    assert lock.owner(path) is None
    (await lock.acquire(path, "rescue", 0)).release()
    assert path.exists(), "never removed: another could lock a new file of that name"


async def test_release_twice(tmp_path: Path) -> None:
    held = await lock.acquire(tmp_path / "lock", "agent", 0)
    held.release()
    other = await lock.acquire(tmp_path / "lock", "rescue", 0)
    held.release()
    with pytest.raises(LockHeld):
        await lock.acquire(tmp_path / "lock", "third", 0)
    other.release()


async def test_waits_for_another_process(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    child = hold(path)
    try:
        waiting = asyncio.create_task(lock.acquire(path, "rescue", LONG))
        await asyncio.sleep(0.3)
        assert not waiting.done()
        child.communicate("\n", timeout=LONG)
        (await waiting).release()
    finally:
        child.kill()
        child.wait()


async def test_dead_owner(tmp_path: Path) -> None:
    """Killed with SIGKILL: its stamp is still there, its lock is not."""
    path = tmp_path / "lock"
    child = hold(path)
    child.kill()
    child.communicate()
    found = lock.owner(path)
    assert found is not None and (found.pid, found.alive) == (child.pid, False)
    with await lock.acquire(path, "rescue", 0):
        found = lock.owner(path)
        assert found is not None and (found.who, found.alive) == ("rescue", True)


async def test_dead_owner_with_a_child_that_lives(tmp_path: Path) -> None:
    """A descriptor that was handed on keeps the lock: it is refused, and said whose it is not."""
    path = tmp_path / "lock"
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    fcntl.flock(fd, fcntl.LOCK_EX)
    stamp(path, start_time=1)
    try:
        with pytest.raises(LockHeld, match=r"a child that agent .* left behind"):
            await lock.acquire(path, "rescue", 0)
    finally:
        os.close(fd)


@pytest.mark.parametrize(
    "changed",
    [{"start_time": 1}, {"boot_id": "00000000-0000-0000-0000-000000000000"}, {"pid": 2**22 + 1}],
    ids=["pid used again", "other boot", "no such process"],
)
async def test_stamp_of_somebody_gone(tmp_path: Path, changed: dict[str, Any]) -> None:
    path = tmp_path / "lock"
    stamp(path)
    found = lock.owner(path)
    assert found is not None and found.alive
    stamp(path, **changed)
    found = lock.owner(path)
    assert found is not None and not found.alive
    (await lock.acquire(path, "rescue", 0)).release()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": "x"}', '{"pid": 1}'])
async def test_stamp_that_cannot_be_read(tmp_path: Path, text: str) -> None:
    path = tmp_path / "lock"
    path.write_text(text)
    assert lock.owner(path) is None
    (await lock.acquire(path, "agent", 0)).release()


async def test_not_inherited(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    held = await lock.acquire(path, "agent", 0)
    child = subprocess.Popen(["sleep", "1000"], close_fds=False)
    try:
        held.release()
        (await lock.acquire(path, "rescue", 0)).release()
    finally:
        child.kill()
        child.wait()


async def test_directory_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        await lock.acquire(tmp_path / "none" / "lock", "agent", 0)
