"""The agent as a program that dies at a chosen point, for the crash matrix.

    python -m tests.crash.agent CONFIG TRACE [DIE]

The real daemon, composed as ``__main__`` composes it. Each point the engine passes is appended to TRACE. DIE says
where it kills itself with SIGKILL: a number, the n-th point of this process (counted from 1); ``once``, the first
point but a record's at which nobody died yet according to TRACE; ``"before do stop-k3s"``, the first of that name.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import signal
import sys
import threading
from pathlib import Path

from k3s_ha_agent import settings
from k3s_ha_agent.__main__ import run
from k3s_ha_agent.host.journald import JournalctlSource, configure_logging


class Points:
    """Told every point; the outside world that ends the process is the last thing it does."""

    def __init__(self, trace: Path, die: str) -> None:
        text = trace.read_text() if trace.exists() else ""
        self._died = {line.removesuffix(" DIED") for line in text.splitlines() if line.endswith(" DIED")}
        self._fd = os.open(trace, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._die = die
        self._passed = 0

    def __call__(self, point: str) -> None:
        self._passed += 1
        dies = self._is_here(point)
        os.write(self._fd, f"{point}{' DIED' if dies else ''}\n".encode())
        if dies:
            os.kill(os.getpid(), signal.SIGKILL)

    def _is_here(self, point: str) -> bool:
        if self._die == "once":
            return not point.endswith("record") and point not in self._died
        return self._die in (str(self._passed), point)


async def _with_one_worker(work: object, told: Path) -> None:
    """Run with a single thread for what blocks, and write its number down: who counts a thread's system calls
    (tests/crash/syscalls.py) meets them in their order."""
    pool = concurrent.futures.ThreadPoolExecutor(1)
    asyncio.get_running_loop().set_default_executor(pool)
    told.write_text(str(await asyncio.to_thread(threading.get_native_id)))
    await work  # type: ignore[misc]


def main() -> None:
    config, trace, *rest = sys.argv[1:]
    chosen = settings.load(Path(config), Path(config).parent / "conf.d")
    configure_logging(chosen.log_level)
    daemon = run(chosen, JournalctlSource(), Points(Path(trace), rest[0] if rest else ""))
    worker = os.environ.get("ONE_WORKER")
    asyncio.run(_with_one_worker(daemon, Path(worker)) if worker else daemon)


if __name__ == "__main__":
    main()
