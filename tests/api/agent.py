"""The API with the manager of the tests, as a process of its own: started, killed, started again.

    agent.py --socket PATH --group NAME --directory DIR [--play JSON] [--not-ready-until FILE] [--config FILE]
             [--changes N]

Operations are kept in DIR and go on when it is started again. The file DIR/release releases an
operation that is held. FILE are settings, for where else it listens; N is how many
changes one caller may ask for. One line on stdout says that the socket is there.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
from pathlib import Path

import structlog
from memory_manager import MemoryManager, Play

from k3s_ha_agent import settings
from k3s_ha_agent.api.server import ApiServer
from k3s_ha_agent.api.service import Limits


async def serve(arguments: argparse.Namespace) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    manager = MemoryManager(Play(**json.loads(arguments.play)), arguments.directory)
    ready_file: Path | None = arguments.not_ready_until
    server = ApiServer(
        manager,
        socket_path=arguments.socket,
        socket_group=arguments.group,
        audit_log=arguments.directory / "audit.jsonl",
        settings=settings.load(arguments.config, arguments.directory / "conf.d"),
        limits=Limits(changes_burst=arguments.changes),
        ready=lambda: ready_file is None or ready_file.exists(),
    )
    await server.start()
    manager.load()
    print("listening", flush=True)
    await stop.wait()
    await server.stop()
    await manager.stop()


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--socket", type=Path, required=True)
    parser.add_argument("--group", default="root")
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--play", default="{}")
    parser.add_argument("--not-ready-until", type=Path)
    parser.add_argument("--config", type=Path, default=Path("/nonexistent"))
    parser.add_argument("--changes", type=int, default=Limits().changes_burst)
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    asyncio.run(serve(parser.parse_args()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
