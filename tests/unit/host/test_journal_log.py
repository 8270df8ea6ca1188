from __future__ import annotations

import io
import json
import logging
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from k3s_ha_agent.host import journal_log
from k3s_ha_agent.host.journal_log import JournalSender, configure_logging


def decode(data: bytes) -> dict[str, str]:
    """The native protocol, as journald reads it."""
    fields = {}
    while data:
        line, _, rest = data.partition(b"\n")
        if b"=" in line:
            name, _, value = line.partition(b"=")
        else:
            name, (length,) = line, struct.unpack_from("<Q", rest)
            value, rest = rest[8 : 8 + length], rest[8 + length :]
            assert rest[:1] == b"\n"
            rest = rest[1:]
        fields[name.decode()] = value.decode()
        data = rest
    return fields


class Journald:
    """Where journald's socket would be."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.settimeout(10)

    def receive(self) -> dict[str, str]:
        data, ancillary, _, _ = self.socket.recvmsg(1 << 20, socket.CMSG_SPACE(4))
        if not ancillary:
            return decode(data)
        assert data == b""
        (fd,) = struct.unpack("i", ancillary[0][2])
        with os.fdopen(fd, "rb") as file:
            assert journal_log.fcntl.fcntl(fd, 1034) == 0xF, "sealed against every change"  # F_GET_SEALS
            file.seek(0)
            return decode(file.read())


@pytest.fixture
def journald(tmp_path: Path) -> Iterator[Journald]:
    found = Journald(tmp_path / "socket")
    yield found
    found.socket.close()


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield
    structlog.reset_defaults()
    root.handlers = handlers
    root.setLevel(level)


@pytest.mark.parametrize("value", ["plain", "two\nlines\n", "", "a=b", "ü", "x" * 2_000_000], ids=lambda v: v[:8])
def test_fields_arrive_whole(journald: Journald, value: str) -> None:
    sender = JournalSender(journald.path)
    assert sender.send({"MESSAGE": value, "PRIORITY": "6"})
    assert journald.receive() == {"MESSAGE": value, "PRIORITY": "6"}
    sender.close()


def test_journald_away_or_full(tmp_path: Path) -> None:
    sender = JournalSender(tmp_path / "none")
    assert not sender.send({"MESSAGE": "lost"})
    assert not sender.send({"MESSAGE": "lost"})
    journald = Journald(tmp_path / "none")
    assert sender.send({"MESSAGE": "x"})
    assert journald.receive() == {"MESSAGE": "x", "KSHA_LOST_ENTRIES": "2"}
    sent = [sender.send({"MESSAGE": "y"}) for _ in range(5000)]
    assert sent[0] and not sent[-1], "a full queue is no reason to wait"
    sender.close()
    journald.socket.close()


def test_field_names() -> None:
    assert journal_log.field_name("operation") == "KSHA_OPERATION"
    assert journal_log.field_name("drop-in.path ü") == "KSHA_DROP_IN_PATH__"
    assert len(journal_log.field_name("x" * 100)) == 64


def configured(journald: Journald, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, level: str = "info") -> None:
    stream = (tmp_path / "stderr").open("w")
    status = os.fstat(stream.fileno())
    monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
    configure_logging(level, stream=stream, socket_path=journald.path)


def test_events_become_entries(journald: Journald, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configured(journald, tmp_path, monkeypatch)
    log = structlog.get_logger("x")
    log.debug("not at this level")
    log.bind(operation="op1").warning("The copy has ended", keys=631, nothing=None)
    assert journald.receive() == {
        "MESSAGE": "The copy has ended",
        "PRIORITY": "4",
        "SYSLOG_IDENTIFIER": "k3s-ha-agent",
        "KSHA_OPERATION": "op1",
        "KSHA_KEYS": "631",
    }
    with structlog.contextvars.bound_contextvars(step="close-gate"):
        log.error("No")
    found = journald.receive()
    assert (found["KSHA_STEP"], found["PRIORITY"]) == ("close-gate", "3")
    try:
        raise ValueError("why")
    except ValueError:
        log.exception("It failed")
    found = journald.receive()
    assert found["PRIORITY"] == "3"
    assert found["MESSAGE"].startswith("It failed\nTraceback") and "ValueError: why" in found["MESSAGE"]
    assert set(found) == {"MESSAGE", "PRIORITY", "SYSLOG_IDENTIFIER"}


def test_libraries_log_to_the_same_place(journald: Journald, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configured(journald, tmp_path, monkeypatch)
    logging.getLogger("aiohttp.server").error("Error handling %s", "request")
    found = journald.receive()
    assert (found["MESSAGE"], found["PRIORITY"], found["KSHA_LOGGER"]) == (
        "Error handling request",
        "3",
        "aiohttp.server",
    )


def test_stderr_when_journald_takes_nothing(tmp_path: Path) -> None:
    script = (
        "import os, sys, structlog, pathlib\n"
        "from k3s_ha_agent.host.journal_log import configure_logging\n"
        "status = os.fstat(2); os.environ['JOURNAL_STREAM'] = f'{status.st_dev}:{status.st_ino}'\n"
        "configure_logging('info', socket_path=pathlib.Path(sys.argv[1]))\n"
        "structlog.get_logger().warning('still said', key=1)\n"
    )
    run = subprocess.run([sys.executable, "-c", script, str(tmp_path / "none")], stderr=subprocess.PIPE, text=True)
    assert run.stderr == "<4>still said\n"


def test_console_for_people(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", "1:2")
    stream = io.StringIO()
    configure_logging("warning", stream=stream)
    log = structlog.get_logger()
    log.info("not at this level")
    log.warning("The copy has ended", keys=631)
    assert "The copy has ended" in stream.getvalue() and "keys=631" in stream.getvalue()
    assert "not at this level" not in stream.getvalue() and "\x1b" not in stream.getvalue()


def test_a_traceback_shows_no_values(journald: Journald, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables hold tokens and Secrets."""

    def fail() -> None:
        token = "swordfish"
        raise ValueError(len(token))

    def log_it() -> None:
        try:
            fail()
        except ValueError as error:
            structlog.get_logger().critical("Stopped", exc_info=error)

    stream = io.StringIO()
    configure_logging("info", stream=stream)
    log_it()
    configured(journald, tmp_path, monkeypatch)
    log_it()
    for text in (stream.getvalue(), journald.receive()["MESSAGE"]):
        assert "ValueError: 9" in text
        assert "swordfish" not in text


def test_stream_that_only_looks_like_the_journals(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as stream:
        status = os.fstat(stream.fileno())
        assert journal_log.under_journald(stream, {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"})
        assert not journal_log.under_journald(stream, {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino + 1}"})
        assert not journal_log.under_journald(stream, {})
    assert not journal_log.under_journald(io.StringIO(), {"JOURNAL_STREAM": "1:2"})


def test_unknown_level() -> None:
    with pytest.raises(ValueError, match="no log level"):
        configure_logging("loud")


def test_values_are_text(journald: Journald, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configured(journald, tmp_path, monkeypatch)
    structlog.get_logger().info("x", path=Path("/a"), data={"k": [1]})
    found = journald.receive()
    assert found["KSHA_PATH"] == "/a" and json.loads(found["KSHA_DATA"].replace("'", '"')) == {"k": [1]}
