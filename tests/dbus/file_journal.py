"""The journal where there is no journald: the log of ``fake_systemd1.py``.

``FileJournal`` is a ``JournalSource`` for tests in one process. Run as a program it answers as
``journalctl --follow --output=json`` does, for an agent that runs as a process of its own: put a directory
with a ``journalctl`` that executes ``python file_journal.py LOG "$@"`` first in its PATH
(``write_journalctl`` makes one).
"""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import sys
import time
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from k3s_ha_agent.host.journald import LogLine

POLL = 0.03


def read_entries(path: Path, start: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """Complete lines from an offset on, each with the offset after it: that is its cursor."""
    if not path.exists():
        return
    with path.open("rb") as log:
        log.seek(start)
        for line in log:
            if not line.endswith(b"\n"):
                return
            start += len(line)
            yield start, json.loads(line)


class FileJournal:
    def __init__(self, path: Path) -> None:
        self._path = path

    async def follow(
        self, unit: str, *, since_cursor: str | None = None, invocation_id: str | None = None, lines: int = 0
    ) -> AsyncGenerator[LogLine, None]:
        from k3s_ha_agent.host.journald import LogLine

        position = start_of(self._path, unit, since_cursor, invocation_id, lines)
        while True:
            for after, entry in read_entries(self._path, position):
                position = after
                if belongs(entry, unit, invocation_id):
                    yield LogLine(entry["message"], str(after), entry["pid"], entry["ts"])
            await asyncio.sleep(POLL)

    async def cursor(self) -> str | None:
        return str(self._path.stat().st_size) if self._path.exists() else None


def belongs(entry: dict[str, Any], unit: str, invocation_id: str | None) -> bool:
    return entry["unit"] == unit and invocation_id in (None, entry["invocation_id"])


def start_of(path: Path, unit: str, since_cursor: str | None, invocation_id: str | None, lines: int) -> int:
    if since_cursor is not None:
        return int(since_cursor)
    if invocation_id is not None:
        return 0
    ends = [0] + [after for after, entry in read_entries(path, 0) if entry["unit"] == unit]
    everything = path.stat().st_size if path.exists() else 0
    return everything if lines == 0 else ends[max(0, len(ends) - 1 - lines)]


def write_journalctl(directory: Path, log: Path) -> Path:
    """A ``journalctl`` in ``directory`` that reads ``log``."""
    directory.mkdir(exist_ok=True)
    program = directory / "journalctl"
    command = [sys.executable, os.path.abspath(__file__), str(log)]
    program.write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n')
    program.chmod(0o755)
    return program


def main(log: Path, arguments: list[str]) -> None:
    """Entries as journalctl's JSON; ends when whoever started it has ended."""
    options = dict(a.removeprefix("--").split("=", 1) for a in arguments if a.startswith("--") and "=" in a)
    matches = dict(a.split("=", 1) for a in arguments if a.startswith("_SYSTEMD_INVOCATION_ID="))
    unit, invocation_id = options.get("unit"), matches.get("_SYSTEMD_INVOCATION_ID")
    parent = os.getppid()
    lines = int(options.get("lines", "0"))
    if "--follow" not in arguments:
        position = max(0, len(list(read_entries(log, 0))) - lines)
        for after, entry in list(read_entries(log, 0))[position:]:
            print(json.dumps(as_journal(after, entry)))
        return
    position = start_of(log, unit or "", options.get("after-cursor"), invocation_id, lines)
    while os.getppid() == parent:
        for after, entry in read_entries(log, position):
            position = after
            if unit in (None, entry["unit"]) and invocation_id in (None, entry["invocation_id"]):
                print(json.dumps(as_journal(after, entry)), flush=True)
        time.sleep(POLL)


def as_journal(after: int, entry: dict[str, Any]) -> dict[str, str]:
    return {
        "__CURSOR": str(after),
        "__REALTIME_TIMESTAMP": str(round(entry["ts"] * 1e6)),
        "_PID": str(entry["pid"]),
        "MESSAGE": entry["message"],
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
