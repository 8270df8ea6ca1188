"""The agent as a program that dies, stops or waits at a chosen point, for the crash tests.

    python -m tests.crash.agent CONFIG TRACE [WHERE]

The real daemon, composed as ``__main__`` composes it. Each point the engine passes is appended to TRACE, with what
was done there. WHERE says where it kills itself with SIGKILL: a number, the n-th point of this process (counted from
1); ``once``, the first point but a record's at which nobody died yet according to TRACE; ``"before do stop-k3s"``,
the first of that name. ``term``: SIGTERM, at the first step begun or undone at which nobody got it yet.
``"pause before do stop-k3s"`` waits there, once, until TRACE.go is there; its event loop stands still meanwhile.

With ONE_WORKER=FILE it has a single thread for what blocks, and writes that thread's id to FILE: who counts the
system calls of a thread (tests/crash/syscalls.py) meets them in their order.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import select
import signal
import sys
import threading
from pathlib import Path

from k3s_ha_agent import settings
from k3s_ha_agent.__main__ import run
from k3s_ha_agent.host.journald import JournalctlSource, configure_logging


class Points:
    """Told every point; the outside world that strikes the process is the last thing it does."""

    def __init__(self, trace: Path, where: str) -> None:
        self._trace = trace
        lines = trace.read_text().splitlines() if trace.exists() else []
        self._struck = {line.rpartition(" ")[0] for line in lines if line.endswith((" DIED", " TERM", " PAUSED"))}
        self._fd = os.open(trace, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._where = where
        self._passed = 0

    def __call__(self, point: str) -> None:
        self._passed += 1
        strike = self._strike(point)
        os.write(self._fd, f"{point} {strike}".strip().encode() + b"\n")
        if strike == "DIED":
            os.kill(os.getpid(), signal.SIGKILL)
        elif strike == "TERM":
            os.kill(os.getpid(), signal.SIGTERM)
        elif strike == "PAUSED":
            while not self._trace.with_suffix(".go").exists():
                select.poll().poll(20)  # not a sleep: libfaketime breaks one when its clock jumps
        if strike:
            self._struck.add(point)

    def _strike(self, point: str) -> str:
        if self._where == "once":
            return "" if point.endswith("record") or point in self._struck else "DIED"
        if self._where == "term":
            return "TERM" if point.startswith(("before do", "before undo")) and point not in self._struck else ""
        if self._where == f"pause {point}":
            return "" if point in self._struck else "PAUSED"
        return "DIED" if self._where in (str(self._passed), point) else ""


async def _with_one_worker(work: object, told: Path) -> None:
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
