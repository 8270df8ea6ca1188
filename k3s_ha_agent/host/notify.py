"""What the agent tells the service manager about itself: sd_notify(3), without libsystemd.

Without ``NOTIFY_SOCKET`` in the environment nothing is sent and nothing is wrong: the agent was not
started by systemd.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping


class Notifier:
    """Sends to the socket that ``environment`` names. OSError when it is named but cannot be reached."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._address = socket_address(environment.get("NOTIFY_SOCKET", ""))
        self._watchdog = parse_watchdog(environment, os.getpid())

    def ready(self) -> None:
        """The start is complete: what is ordered after the agent (k3s) may start now."""
        self._send("READY=1")

    def stopping(self) -> None:
        self._send("STOPPING=1")

    def status(self, text: str) -> None:
        """One line for ``systemctl status``."""
        self._send("STATUS=" + " ".join(text.splitlines()))

    def watchdog(self) -> None:
        """Still alive. Must come from where work is done: here, the event loop."""
        self._send("WATCHDOG=1")

    def extend_timeout(self, seconds: float) -> None:
        """Ask that the start or stop in progress may take ``seconds`` more from now."""
        self._send(f"EXTEND_TIMEOUT_USEC={round(seconds * 1_000_000)}")

    def watchdog_interval(self) -> float | None:
        """Seconds between two signs of life: half of ``WatchdogSec=``, as sd_watchdog_enabled(3) advises. None: off."""
        return None if self._watchdog is None else self._watchdog / 2

    def _send(self, message: str) -> None:
        if self._address is None:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as sender:
            # Not blocking: a full queue raises BlockingIOError rather than stopping the event loop.
            sender.sendto(message.encode(), self._address)


def socket_address(value: str) -> str | None:
    """The address to send to; ``@name`` is the abstract socket ``\\0name``. None when there is no manager."""
    if not value:
        return None
    if value[0] not in "/@" or len(value) < 2:
        raise ValueError(f"NOTIFY_SOCKET={value!r} is neither a path nor an abstract socket")
    return "\0" + value[1:] if value[0] == "@" else value


def parse_watchdog(environment: Mapping[str, str], pid: int) -> float | None:
    """Seconds of ``WATCHDOG_USEC``; None when there is none, or when it is meant for another process."""
    if environment.get("WATCHDOG_PID", str(pid)) != str(pid):
        return None
    microseconds = int(environment.get("WATCHDOG_USEC", "0"))
    return microseconds / 1_000_000 if microseconds > 0 else None
