"""Puts the rooms together and runs the daemon; the only module that knows them all."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import json
import resource
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import structlog

from k3s_ha_agent import __version__, durable, settings
from k3s_ha_agent.api import remote
from k3s_ha_agent.api.server import ApiServer
from k3s_ha_agent.errors import AgentError, ConfigurationError, Unavailable
from k3s_ha_agent.host import notify
from k3s_ha_agent.host.journald import JournalctlSource, JournalSource, configure_logging
from k3s_ha_agent.host.messages import Message
from k3s_ha_agent.host.units import Units
from k3s_ha_agent.k3s.configuration import drop_in_path
from k3s_ha_agent.k3s.layout import Layout
from k3s_ha_agent.k3s.token import Token
from k3s_ha_agent.model import ClusterView, Kind, NodeState, Operation
from k3s_ha_agent.operations import peer_config, pre_image
from k3s_ha_agent.operations.hand_over import hand_over
from k3s_ha_agent.operations.history import last_migration
from k3s_ha_agent.operations.intake import Findings
from k3s_ha_agent.operations.manager import OperationManager
from k3s_ha_agent.operations.plan import Observer
from k3s_ha_agent.operations.planner import Planner
from k3s_ha_agent.preflight.inspector import NodeInspector
from k3s_ha_agent.preflight.join_target import JoinTarget
from k3s_ha_agent.preflight.results import Missing
from k3s_ha_agent.preflight.subject import PreImage

log = structlog.get_logger("k3s_ha_agent")
TEND_PAUSE = 15.0
"""Seconds between two looks at the members of the cluster."""
RESTART_WANTED = "restart-wanted"
"""Left in the runtime dir by a package upgraded in the middle of an operation."""
RESTART = 75
"""EX_TEMPFAIL; the unit has it in RestartForceExitStatus=."""


class Inspector:
    """Preflight as the operation manager wants it."""

    def __init__(self, node: NodeInspector) -> None:
        self._node = node

    async def examine(
        self,
        kind: Kind,
        *,
        accept_slow_disk: bool,
        history: Sequence[Operation],
        target: tuple[str, Token] | None = None,
    ) -> Findings:
        there = None if target is None else JoinTarget(*target)
        checks, facts = await self._node.examine(kind, accept_slow_disk=accept_slow_disk, history=history, target=there)
        return Findings(checks, facts)

    async def survey(self) -> NodeState:
        return await self._node.survey()

    async def cluster(self) -> ClusterView:
        return await self._node.cluster()


def find_pre_image(history: Sequence[Operation]) -> PreImage | Missing:
    """The pre-image a rollback would put back, verified as far as its manifest goes. Blocks."""
    migration = last_migration(history)
    if migration is None:
        return Missing("The last thing this agent committed here is not a migration.", "pre-image")
    directory = Path(migration.facts["backup"])
    size = sum(p.stat().st_size for p in directory.rglob("*") if p.is_file() and not p.is_symlink())
    try:
        about = pre_image.verify(directory)
    except AgentError as error:
        return PreImage(migration.id, directory, "", size, problem=error.detail)
    return PreImage(migration.id, directory, str(about.get("k3s_version") or ""), size)


async def run(chosen: settings.Settings, journal: JournalSource, observer: Observer | None = None) -> int:
    """The daemon, until SIGTERM or SIGINT. ``observer`` is told every point the engine passes.

    The exit status: 0, or RESTART when a package that was upgraded in the middle of an operation asked for it.
    """
    # Memory holds tokens and Secrets. The unit says so too, but a person may start this by hand.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    stop = asyncio.Event()
    restart = chosen.runtime_dir / RESTART_WANTED
    durable.remove(restart)  # this is the restart
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with contextlib.AsyncExitStack() as stack:
        units = await stack.enter_async_context(Units(chosen.dbus_address))
        inspector = Inspector(NodeInspector(chosen, units, pre_image_of=find_pre_image))
        planner = Planner(chosen, units, journal)
        manager = OperationManager(chosen, planner, inspector, functools.partial(hand_over, units), observer)
        journal_read = asyncio.Event()
        api = ApiServer(
            manager,
            socket_path=chosen.runtime_dir / "api.sock",
            socket_group=chosen.socket_group,
            ready=journal_read.is_set,
            audit_log=chosen.state_dir / "audit.jsonl",
            settings=chosen,
        )
        unfinished = await manager.load()
        journal_read.set()
        stack.push_async_callback(manager.close)
        stack.push_async_callback(api.stop)
        problem = await _start_api(api)
        if problem is not None and not unfinished:
            raise problem
        for operation, decision in unfinished:
            log.warning(decision.sentence, operation=operation.id)
        # k3s is ordered after us at boot, and what is unfinished may need it started: so READY=1 comes
        # before the resumption. Until then the gate keeps k3s from a half-copied datastore.
        notify.ready()
        log.info(f"k3s-ha-agent {__version__} is ready.", unit=chosen.unit, message_id=Message.READY)
        manager.resume(unfinished)
        beat = asyncio.create_task(_heartbeat(manager, restart, stop), name="heartbeat")
        tend = asyncio.create_task(_tend(chosen, manager), name="tend")
        try:
            await stop.wait()
        finally:
            notify.stopping()
            log.info("k3s-ha-agent is stopping.")
            beat.cancel()
            tend.cancel()
    return RESTART if _asked_for(restart) else 0


async def _start_api(api: ApiServer) -> AgentError | None:
    """Why the API cannot be served, None when it is. What is unfinished is not left lying for that."""
    try:
        await api.start()
    except AgentError as error:
        problem = error
    except OSError as error:
        problem = Unavailable(f"The API's socket cannot be opened: {error}.")
    else:
        return None
    log.critical(str(problem))
    return problem


async def _heartbeat(manager: OperationManager, restart: Path, stop: asyncio.Event) -> None:
    """Tell the watchdog that the event loop turns, and people what is going on; end when a restart is wanted."""
    interval = notify.watchdog_interval()
    told = ""
    while True:
        notify.watchdog()
        running = manager.running()
        text = "Idle." if running is None else f"{running.kind} {running.id}: {_where(running)}"
        if text != told:
            notify.status(text)
            told = text
        if _asked_for(restart) and manager.idle() and not stop.is_set():
            log.info("The package was upgraded while an operation ran; it has ended, and the new version is started.")
            stop.set()
        await asyncio.sleep(min(1.0, interval / 3) if interval else 1.0)


async def _tend(chosen: settings.Settings, manager: OperationManager) -> None:
    """Keep our drop-in for k3s up to the members of the cluster, between operations."""
    layout, drop_in, told = Layout(chosen.data_dir), drop_in_path(chosen.k3s_config), ""
    while True:
        await asyncio.sleep(TEND_PAUSE)
        if manager.running() is not None:
            continue
        try:
            await peer_config.reconcile(layout, drop_in, manager.list())
        except (AgentError, OSError) as error:
            if str(error) != told:
                told = str(error)
                log.warning(f"Our drop-in for k3s cannot be compared with the members of the cluster: {error}")


def _asked_for(restart: Path) -> bool:
    """One stat of a file in /run."""
    return restart.exists()


def _where(operation: Operation) -> str:
    at = [s.name for s in operation.steps if s.status in ("doing", "undoing")]
    return f"{operation.phase} {', '.join(at)}".strip()


def check_config(config: Path, conf_d: Path) -> int:
    """Print what the settings are and what is wrong with them or the files they name. 0 or 2."""
    shown: dict[str, object] = {}
    problems: list[AgentError] = []
    try:
        chosen = settings.load(config, conf_d)
    except AgentError as error:
        problems.append(error)
    else:
        shown = settings.shown(chosen)
        problems += remote.problems(chosen)
    told = [{"detail": p.detail, "next_step": p.next_step} for p in problems]
    print(json.dumps({"ok": not told, "settings": shown, "problems": told}, indent=2))  # noqa: T201
    return ConfigurationError.exit_code if told else 0


def build_parser() -> argparse.ArgumentParser:
    """The parser; also what the man page is made from."""
    parser = argparse.ArgumentParser(
        prog="k3s-ha-agent",
        description="Migrates k3s from SQLite to embedded etcd and back, with proof; started by systemd.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument("--config", type=Path, default=settings.CONFIG, metavar="FILE", help="default: %(default)s")
    parser.add_argument("--conf-d", type=Path, default=settings.CONF_D, metavar="DIR", help="default: %(default)s")
    parser.add_argument("--check-config", action="store_true", help="check the settings, print them as JSON, and end")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    options = build_parser().parse_args(arguments)
    if options.check_config:
        return check_config(options.config, options.conf_d)
    try:
        chosen = settings.load(options.config, options.conf_d)
        configure_logging(chosen.log_level)
        return asyncio.run(run(chosen, JournalctlSource()))
    except AgentError as error:
        print(f"k3s-ha-agent: {error}", file=sys.stderr)  # noqa: T201 - the log may not be set up yet
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
