"""What the agent tells the service manager about itself: sd_notify(3), without libsystemd.

Without ``NOTIFY_SOCKET`` in the environment nothing is sent and nothing is wrong: the agent was not
started by systemd. A message that cannot be sent is logged and is no reason to end an operation:
systemd acts on silence by itself (start time-out, watchdog). The functions say whether it was sent.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping

import structlog

_log = structlog.get_logger(__name__)


def ready() -> bool:
    """The start is complete: what is ordered after the agent (k3s) may start now."""
    return send("READY=1")


def stopping() -> bool:
    return send("STOPPING=1")


def status(text: str) -> bool:
    """One line for ``systemctl status``."""
    return send("STATUS=" + " ".join(text.splitlines()))


def watchdog() -> bool:
    """Still alive. Must come from where work is done: here, the event loop."""
    return send("WATCHDOG=1")


def extend_timeout(seconds: float) -> bool:
    """Ask that the start or stop in progress may take ``seconds`` more from now."""
    return send(f"EXTEND_TIMEOUT_USEC={round(seconds * 1_000_000)}")


def watchdog_interval(environment: Mapping[str, str] = os.environ) -> float | None:
    """Seconds without ``watchdog`` after which systemd ends us (``WatchdogSec=``); None when it does not.

    Say it twice as often, as sd_watchdog_enabled(3) advises.
    """
    if environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None  # meant for another process of the unit
    microseconds = int(environment.get("WATCHDOG_USEC", "0"))
    return microseconds / 1_000_000 if microseconds > 0 else None


def send(message: str, environment: Mapping[str, str] = os.environ) -> bool:
    """Send assignments, one a line, to the manager. Does not block, does not raise OSError."""
    address = socket_address(environment.get("NOTIFY_SOCKET", ""))
    if address is None:
        return False
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as sender:
            sender.sendto(message.encode(), address)
    except OSError as error:
        _log.warning("The service manager could not be told something", notification=message, error=str(error))
        return False
    return True


def socket_address(value: str) -> str | None:
    """The address to send to; ``@name`` is the abstract socket ``\\0name``. None when there is no manager."""
    if not value:
        return None
    if value[0] not in "/@" or len(value) < 2:
        raise ValueError(f"NOTIFY_SOCKET={value!r} is neither a path nor an abstract socket")
    return "\0" + value[1:] if value[0] == "@" else value
