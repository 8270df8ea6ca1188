"""What the agent itself writes to the log: one sentence, and fields to search for.

Under systemd it goes to journald's socket in its native protocol, so that fields stay fields
(``journalctl KSHA_OPERATION=…``); elsewhere to stderr for people. The sentence is MESSAGE, every key is
upper-cased with the prefix ``KSHA_``, and what journald has a name for (PRIORITY, CODE_FUNC, …) keeps it.
"""

from __future__ import annotations

import array
import fcntl
import logging
import os
import socket
import struct
import sys
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Any, TextIO

import structlog

JOURNAL_SOCKET = Path("/run/systemd/journal/socket")
PREFIX = "KSHA_"
"""Capital letters and "_" alone: of a name with a digit, journald's catalog replaces no @NAME@ (systemd,
src/basic/replace-var.c, get_variable), and ``journalctl -x`` would tell people to run a command with one in it."""
IDENTIFIER = "k3s-ha-agent"
_PRIORITIES = {"critical": 2, "error": 3, "exception": 3, "warning": 4, "info": 6, "debug": 7}
"""syslog(3) levels of structlog's names."""
_F_ADD_SEALS, _SEALS = 1033, 0x1 | 0x2 | 0x4 | 0x8


class JournalSender:
    """Sends entries to journald. Never blocks: an entry journald has no room for is counted and said later."""

    def __init__(self, path: Path = JOURNAL_SOCKET) -> None:
        self._path = str(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        self.lost = 0

    def send(self, fields: Mapping[str, str]) -> bool:
        """Send one entry; False when it was lost (journald away, or its queue full)."""
        if self.lost:
            fields = {**fields, PREFIX + "LOST_ENTRIES": str(self.lost)}
        try:
            self._send(encode(fields))
        except OSError:
            self.lost += 1
            return False
        self.lost = 0
        return True

    def close(self) -> None:
        self._socket.close()

    def _send(self, data: bytes) -> None:
        try:
            self._socket.sendto(data, self._path)
        except OSError as error:
            if error.errno not in (90, 105):  # EMSGSIZE, ENOBUFS: does not fit a datagram
                raise
            self._send_as_file(data)

    def _send_as_file(self, data: bytes) -> None:
        """Hand over what does not fit a datagram as a sealed memory file (systemd.io, "Native Journal Protocol")."""
        fd = os.memfd_create("journal-entry", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
            fcntl.fcntl(fd, _F_ADD_SEALS, _SEALS)
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))
            self._socket.sendmsg([b""], [rights], 0, self._path)
        finally:
            os.close(fd)


def encode(fields: Mapping[str, str]) -> bytes:
    """An entry in the native protocol: ``NAME=value``, or name, 64-bit length and value when it has line breaks."""
    parts = []
    for name, value in fields.items():
        data = value.encode(errors="surrogateescape")
        if b"\n" in data:
            parts.append(name.encode() + b"\n" + struct.pack("<Q", len(data)) + data + b"\n")
        else:
            parts.append(name.encode() + b"=" + data + b"\n")
    return b"".join(parts)


def field_name(key: str) -> str:
    """A key as journald takes it: upper case, digits and underscores, 64 bytes at the most."""
    upper = "".join(c if c.isascii() and c.isalnum() else "_" for c in key.upper())
    return (PREFIX + upper)[:64]


def fields_of(level: str, event: Mapping[str, Any]) -> dict[str, str]:
    """The journal fields of a structlog event."""
    fields = {
        "MESSAGE": str(event.get("event", "")),
        "PRIORITY": str(_PRIORITIES.get(level, 6)),
        "SYSLOG_IDENTIFIER": IDENTIFIER,
    }
    if event.get("message_id"):
        fields["MESSAGE_ID"] = str(event["message_id"])
    for key, value in event.items():
        if key not in ("message_id", "event", "level", "timestamp", "exc_info", "exception") and value is not None:
            fields[field_name(key)] = str(value)
    if event.get("exception"):
        fields["MESSAGE"] += "\n" + str(event["exception"])
    return fields


def under_journald(stream: TextIO, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether a stream really goes to the journal: ``JOURNAL_STREAM`` names its device and inode (systemd.exec(5))."""
    device, _, inode = environment.get("JOURNAL_STREAM", "").partition(":")
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return (device, inode) == (str(status.st_dev), str(status.st_ino))


class _Sink:
    """structlog's last word: an entry to journald, or a line to stderr when journald cannot be had."""

    def __init__(self, sender: JournalSender) -> None:
        self._sender = sender

    def msg(self, level: str, fields: Mapping[str, str]) -> None:
        if not self._sender.send(fields):
            # stderr is journald's stream as well, but another socket with a queue of its own.
            print(f"<{fields['PRIORITY']}>{fields['MESSAGE']}", file=sys.stderr, flush=True)  # noqa: T201

    debug = info = warning = warn = error = critical = exception = fatal = log = msg


def _to_journal(_logger: Any, level: str, event: MutableMapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return (level, fields_of(level, event)), {}


def _for_people(_logger: Any, _level: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    event.pop("message_id", None)
    return event


def configure_logging(level: str, *, stream: TextIO | None = None, socket_path: Path = JOURNAL_SOCKET) -> None:
    """Set up structlog, and the standard library's logging (aiohttp, watchdog) to go through it.

    ``level``: debug, info, warning or error. To journald when ``stream`` (stderr) is its, else to the
    stream, with colours when it is a terminal.
    """
    stream = stream or sys.stderr
    number = logging.getLevelName(level.upper())
    if not isinstance(number, int):
        raise ValueError(f"{level!r} is no log level")
    common: list[Any] = [structlog.contextvars.merge_contextvars, structlog.processors.add_log_level]
    if under_journald(stream):
        sink = _Sink(JournalSender(socket_path))
        processors = [*common, structlog.processors.format_exc_info, _to_journal]
        factory: Any = lambda *_: sink  # noqa: E731
    else:
        # structlog's own choice, where rich is installed, prints every local variable, tokens among them.
        plain = structlog.dev.plain_traceback
        console = structlog.dev.ConsoleRenderer(colors=stream.isatty(), exception_formatter=plain)
        processors = [*common, _for_people, structlog.processors.TimeStamper(fmt="iso", utc=True), console]
        factory = structlog.PrintLoggerFactory(stream)
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=factory,
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    root.handlers = [_Forward()]
    root.setLevel(max(number, logging.INFO))


class _Forward(logging.Handler):
    """Takes what libraries log to where our own lines go."""

    def emit(self, record: logging.LogRecord) -> None:
        level = record.levelname.lower()
        name = level if level in _PRIORITIES else "info"
        getattr(structlog.get_logger(), name)(record.getMessage(), logger=record.name, exc_info=record.exc_info or None)
