"""Reading the journal of a unit as it grows, through ``journalctl``; what is written to it is ``journal_log``.

journalctl(1) is the one interface to the journal's files that every release of systemd keeps, and its
JSON is documented (systemd.journal-fields(7), systemd.io "Journal Export Formats").
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
from collections.abc import AsyncGenerator
from typing import Any, Protocol

import structlog

from k3s_ha_agent.errors import SystemdError
from k3s_ha_agent.host.journal_log import JournalSender, configure_logging

__all__ = ["JournalSender", "JournalSource", "JournalctlSource", "LogLine", "configure_logging", "parse_entry"]

_log = structlog.get_logger(__name__)

_ENTRY_LIMIT = 16 * 1024 * 1024
"""Bytes of one entry as JSON. Longer ones are skipped, and that is logged."""
_RESTART_PAUSE = 0.5
_CALL_TIMEOUT = 30.0


@dataclasses.dataclass(frozen=True, slots=True)
class LogLine:
    message: str
    cursor: str
    """Where it stands in the journal; following can go on after it."""
    pid: int
    """0 when it was not written by a process (kernel)."""
    realtime: float
    """Seconds since the epoch when the journal received it."""


class JournalSource(Protocol):
    """Where log lines of a unit come from."""

    def follow(
        self, unit: str, *, since_cursor: str | None = None, invocation_id: str | None = None, lines: int = 0
    ) -> AsyncGenerator[LogLine, None]:
        """Lines of a unit, then those still to come, without end; close the iterator (``aclosing``).

        ``invocation_id``: only those of this run of the unit, from its first. ``since_cursor``: those
        after it. Otherwise the last ``lines`` there are. Both may be given.
        """

    async def cursor(self) -> str | None:
        """Of the newest entry in the journal; None while it is empty."""


class JournalctlSource:
    """The journal of this machine. ``program`` is journalctl, or what speaks like it."""

    def __init__(self, program: str = "journalctl") -> None:
        self._program = program

    async def follow(
        self, unit: str, *, since_cursor: str | None = None, invocation_id: str | None = None, lines: int = 0
    ) -> AsyncGenerator[LogLine, None]:
        """See ``JournalSource``. journalctl is started again when it ends, and goes on where it was.

        SystemdError when it cannot be started at all.
        """
        if since_cursor is None and invocation_id is None and lines == 0:
            # Fixed now, so that a journalctl that dies before its first line loses nothing.
            since_cursor = await self.cursor()
        told = ""
        while True:
            child = await self._start(*arguments_of_follow(unit, since_cursor, invocation_id, lines))
            try:
                async with contextlib.aclosing(_entries(child)) as entries:
                    async for line in entries:
                        since_cursor = line.cursor
                        yield line
                reason = (await _stream(child.stderr).read(1000)).decode(errors="replace").strip()
            finally:
                await _end(child)
            if reason != told or not reason:
                _log.warning("journalctl ended while it was followed; it is started again", unit=unit, reason=reason)
                told = reason
            await asyncio.sleep(_RESTART_PAUSE)

    async def cursor(self) -> str | None:
        """Of the newest entry. SystemdError when journalctl fails or takes longer than 30 s."""
        child = await self._start("--output=json", "--lines=1", "--no-pager", "--quiet", "--all")
        try:
            async with asyncio.timeout(_CALL_TIMEOUT):
                out, _ = await child.communicate()
        except TimeoutError:
            raise SystemdError(f"{self._program} did not answer within {_CALL_TIMEOUT:g} s.") from None
        finally:
            await _end(child)
        line = parse_entry(out.decode(errors="replace")) if out.strip() else None
        return line.cursor if line else None

    async def _start(self, *arguments: str) -> asyncio.subprocess.Process:
        try:
            return await asyncio.create_subprocess_exec(
                self._program,
                *arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                limit=_ENTRY_LIMIT,
            )
        except OSError as error:
            raise SystemdError(
                f"The journal cannot be read: {self._program} cannot be started ({error.strerror}).",
                next_step="journalctl belongs to systemd; see whether it is installed and in the PATH.",
            ) from error


async def _entries(child: asyncio.subprocess.Process) -> AsyncGenerator[LogLine, None]:
    """The entries a journalctl writes, until it ends."""
    out = _stream(child.stdout)
    while True:
        try:
            text = await out.readline()
        except ValueError:  # longer than the limit; the reader has dropped it
            _log.warning("An entry of the journal is too long and is left out", limit=_ENTRY_LIMIT)
            continue
        if not text:
            return
        line = parse_entry(text.decode(errors="replace"))
        if line is not None:
            yield line


def _stream(stream: asyncio.StreamReader | None) -> asyncio.StreamReader:
    if stream is None:
        raise SystemdError("journalctl was started without a pipe for its output.")
    return stream


def arguments_of_follow(unit: str, since_cursor: str | None, invocation_id: str | None, lines: int) -> list[str]:
    """journalctl's arguments.

    ``--all``: without it a message over 4096 bytes is null in JSON. An invocation is matched by two
    fields: what its processes write carries ``_SYSTEMD_INVOCATION_ID``, what systemd says about it
    ``INVOCATION_ID``; ``+`` is "or". ``--follow`` alone would begin with the last ten lines.
    """
    arguments = ["--follow", "--output=json", "--all", "--no-pager", "--quiet"]
    if since_cursor is not None:
        arguments += [f"--after-cursor={since_cursor}", "--no-tail"]
    elif invocation_id is not None:
        arguments.append("--no-tail")
    else:
        arguments.append(f"--lines={lines}")
    if invocation_id is not None:
        return [*arguments, f"_SYSTEMD_INVOCATION_ID={invocation_id}", "+", f"INVOCATION_ID={invocation_id}"]
    return [*arguments, f"--unit={unit}"]


def parse_entry(text: str) -> LogLine | None:
    """One line of ``--output=json``; None when it is not an entry (the first line of a journalctl that was cut off)."""
    try:
        entry = json.loads(text)
        cursor = str(entry["__CURSOR"])
        realtime = int(entry["__REALTIME_TIMESTAMP"]) / 1_000_000
        pid = _text(entry.get("_PID", entry.get("SYSLOG_PID", "0")))
    except (ValueError, KeyError, TypeError):
        _log.warning("journalctl wrote something that is no entry", text=text[:200])
        return None
    return LogLine(_text(entry.get("MESSAGE")), cursor, int(pid) if pid.isdigit() else 0, realtime)


def _text(value: Any) -> str:
    """A field: a string; a list of bytes when it is not printable; a list of either when it is there twice; null."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value:
        if all(isinstance(each, int) for each in value):
            return bytes(value).decode(errors="replace")
        return _text(value[0])
    return ""


async def _end(child: asyncio.subprocess.Process) -> None:
    if child.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            child.kill()
        await child.wait()
    # Pipes that were not read to their end keep the transport open, until it complains about a closed loop.
    transport: Any = child._transport  # type: ignore[attr-defined]
    transport.close()
