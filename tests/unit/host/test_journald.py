from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import time
from pathlib import Path

import pytest

from k3s_ha_agent.errors import SystemdError
from k3s_ha_agent.host.journald import JournalctlSource, JournalSource, LogLine, arguments_of_follow, parse_entry
from tests.dbus.file_journal import FileJournal, write_journalctl

LONG = 60.0


def entry(**fields: object) -> str:
    return json.dumps({"__CURSOR": "s=1;i=2", "__REALTIME_TIMESTAMP": "1795423094408504", **fields})


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("k3s is up and running", "k3s is up and running"),
        ([27, 91, 51, 109, 195, 188], "\x1b[3mü"),
        ([255, 65], "\ufffdA"),
        (["first", "second"], "first"),
        ([[195, 188], "x"], "ü"),
        (None, ""),
        ([], ""),
    ],
    ids=["text", "bytes", "bytes that are no text", "field twice", "field twice, bytes", "null", "empty"],
)
def test_message_in_all_its_forms(message: object, expected: str) -> None:
    found = parse_entry(entry(MESSAGE=message, _PID="50"))
    assert found == LogLine(expected, "s=1;i=2", 50, 1795423094.408504)


def test_entry_without_a_process() -> None:
    found = parse_entry(entry(MESSAGE="from the kernel"))
    assert found is not None and found.pid == 0
    found = parse_entry(entry(MESSAGE="x", SYSLOG_PID="nonsense"))
    assert found is not None and found.pid == 0


@pytest.mark.parametrize("text", ["", "-- No entries --", '{"MESSAGE": "x"}', "[]", '"x"', '{"__CURSOR": "c"'])
def test_what_is_no_entry(text: str) -> None:
    assert parse_entry(text) is None


def test_arguments() -> None:
    common = ["--follow", "--output=json", "--all", "--no-pager", "--quiet"]
    assert arguments_of_follow("k3s.service", None, None, 7) == [*common, "--lines=7", "--unit=k3s.service"]
    after = [*common, "--after-cursor=s=1;i=2", "--no-tail"]
    assert arguments_of_follow("k3s.service", "s=1;i=2", None, 7) == [*after, "--unit=k3s.service"]
    run = ["_SYSTEMD_INVOCATION_ID=ab", "+", "INVOCATION_ID=ab"]
    assert arguments_of_follow("k3s.service", None, "ab", 0) == [*common, "--no-tail", *run]
    assert arguments_of_follow("k3s.service", "s=1;i=2", "ab", 0) == [*after, *run]


class Unit:
    """A log that grows, as fake_systemd1.py writes it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def log(self, message: str, unit: str = "k3s.service", invocation_id: str = "a") -> None:
        line = {"unit": unit, "pid": 50, "message": message, "ts": time.time(), "invocation_id": invocation_id}
        with self.path.open("a") as log:
            log.write(json.dumps(line) + "\n")


@pytest.fixture
def unit(tmp_path: Path) -> Unit:
    return Unit(tmp_path / "journal.jsonl")


@pytest.fixture(params=["journalctl", "file"])
def source(request: pytest.FixtureRequest, unit: Unit, tmp_path: Path) -> JournalSource:
    if request.param == "file":
        return FileJournal(unit.path)
    return JournalctlSource(str(write_journalctl(tmp_path / "bin", unit.path)))


async def test_from_now_on(source: JournalSource, unit: Unit) -> None:
    unit.log("before")
    async with asyncio.timeout(LONG), contextlib.aclosing(source.follow("k3s.service")) as lines:
        first = asyncio.ensure_future(anext(lines))
        while not first.done():
            unit.log("of another", unit="other.service")
            unit.log("after")
            await asyncio.sleep(0.05)
        assert first.result().message == "after"
        unit.log("more")
        while (line := await anext(lines)).message != "more":
            assert line.message == "after"


async def test_last_lines(source: JournalSource, unit: Unit) -> None:
    for n in range(5):
        unit.log(str(n))
    async with asyncio.timeout(LONG), contextlib.aclosing(source.follow("k3s.service", lines=2)) as lines:
        assert [(await anext(lines)).message for _ in range(2)] == ["3", "4"]


async def test_one_run_of_the_unit(source: JournalSource, unit: Unit) -> None:
    unit.log("earlier run", invocation_id="a")
    unit.log("this run", invocation_id="b")
    async with asyncio.timeout(LONG), contextlib.aclosing(source.follow("k3s.service", invocation_id="b")) as lines:
        assert (await anext(lines)).message == "this run"
        unit.log("restarted", invocation_id="c")
        unit.log("this run still", invocation_id="b")
        assert (await anext(lines)).message == "this run still"


async def test_after_a_cursor(source: JournalSource, unit: Unit) -> None:
    unit.log("one")
    cursor = await source.cursor()
    unit.log("two")
    unit.log("three")
    async with asyncio.timeout(LONG), contextlib.aclosing(source.follow("k3s.service", since_cursor=cursor)) as lines:
        line = await anext(lines)
        assert (line.message, line.pid) == ("two", 50)
    again = source.follow("k3s.service", since_cursor=line.cursor)
    async with asyncio.timeout(LONG), contextlib.aclosing(again) as lines:
        assert (await anext(lines)).message == "three"


def children() -> list[int]:
    return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]


async def test_journalctl_that_dies_loses_and_repeats_nothing(unit: Unit, tmp_path: Path) -> None:
    unit.log("before")
    source = JournalctlSource(str(write_journalctl(tmp_path / "bin", unit.path)))
    before = set(children())
    got = []
    cursor = await source.cursor()
    async with asyncio.timeout(LONG), contextlib.aclosing(source.follow("k3s.service", since_cursor=cursor)) as lines:
        waiting = asyncio.ensure_future(anext(lines))
        for n in range(3):
            unit.log(f"a{n}")
            got.append((await waiting).message)
            waiting = asyncio.ensure_future(anext(lines))
            await asyncio.sleep(0)
            for pid in set(children()) - before:
                os.kill(pid, signal.SIGKILL)
            unit.log(f"b{n}")
            got.append((await waiting).message)
            waiting = asyncio.ensure_future(anext(lines))
        waiting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await waiting
    assert got == ["a0", "b0", "a1", "b1", "a2", "b2"]
    assert set(children()) == before, "no journalctl is left"


async def test_no_journalctl_is_left_when_cancelled(unit: Unit, tmp_path: Path) -> None:
    source = JournalctlSource(str(write_journalctl(tmp_path / "bin", unit.path)))
    before = set(children())

    async def follow() -> None:
        async with contextlib.aclosing(source.follow("k3s.service", lines=1)) as lines:
            async for _ in lines:
                pass

    task = asyncio.create_task(follow())
    async with asyncio.timeout(LONG):
        while set(children()) == before:
            await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert set(children()) == before


async def test_nonsense_and_too_long_lines_are_left_out(unit: Unit, tmp_path: Path) -> None:
    good = entry(MESSAGE="good")
    program = tmp_path / "journalctl"
    program.write_text(
        f"#!/bin/sh\necho nonsense\nhead -c 17000000 /dev/zero | tr '\\0' x\necho\necho '{good}'\nexec sleep 1000\n"
    )
    program.chmod(0o755)
    async with asyncio.timeout(LONG):
        async with contextlib.aclosing(JournalctlSource(str(program)).follow("k3s.service", lines=1)) as lines:
            assert (await anext(lines)).message == "good"


async def test_no_journalctl(tmp_path: Path) -> None:
    source = JournalctlSource(str(tmp_path / "none"))
    with pytest.raises(SystemdError, match="cannot be started"):
        await source.cursor()
    with pytest.raises(SystemdError, match="cannot be started"):
        await anext(source.follow("k3s.service", lines=1))
