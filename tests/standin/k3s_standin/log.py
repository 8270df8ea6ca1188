"""Log lines as k3s writes them to stderr, and the ways a process ends."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import NoReturn

_at_exit: list[Callable[[], None]] = []


def line(level: str, message: str) -> None:
    moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    text = f'time="{moment}" level={level} msg={json.dumps(message, ensure_ascii=False)}\n'
    data = text.encode()
    while data:
        data = data[os.write(2, data) :]


def info(message: str) -> None:
    line("info", message)


def warning(message: str) -> None:
    line("warning", message)


def at_exit(act: Callable[[], None]) -> None:
    """What an ordered end does first (stop etcd). SIGKILL needs none: PDEATHSIG (process.py)."""
    _at_exit.append(act)


def leave(code: int) -> NoReturn:
    """End at once. SQLite is *not* closed on the way: no checkpoint ("ten facts" 5)."""
    for act in reversed(_at_exit):
        act()
    sys.stdout.flush()
    os._exit(code)


def fatal(message: str, code: int = 1) -> NoReturn:
    line("fatal", message)
    leave(code)


def die() -> NoReturn:
    """SIGKILL, as the kernel or a power cut would."""
    os.kill(os.getpid(), signal.SIGKILL)
    while True:
        time.sleep(60)
