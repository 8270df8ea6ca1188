"""The agent as a program that dies at a chosen point, for the crash matrix.

    python -m tests.crash.agent CONFIG TRACE [DIE_AT]

The real daemon, composed as ``__main__`` composes it. Each point the engine passes is appended to TRACE;
at the DIE_AT-th point of this process (counted from 1) it kills itself with SIGKILL.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

from k3s_ha_agent import settings
from k3s_ha_agent.__main__ import run
from k3s_ha_agent.host.journald import JournalctlSource, configure_logging


class Points:
    """Told every point; the outside world that ends the process is the last thing it does."""

    def __init__(self, trace: Path, die_at: int | None) -> None:
        self._fd = os.open(trace, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._die_at = die_at
        self._passed = 0

    def __call__(self, point: str) -> None:
        self._passed += 1
        dies = self._passed == self._die_at
        os.write(self._fd, f"{point}{' DIED' if dies else ''}\n".encode())
        if dies:
            os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    config, trace, *rest = sys.argv[1:]
    chosen = settings.load(Path(config), Path(config).parent / "conf.d")
    configure_logging(chosen.log_level)
    asyncio.run(run(chosen, JournalctlSource(), Points(Path(trace), int(rest[0]) if rest else None)))


if __name__ == "__main__":
    main()
