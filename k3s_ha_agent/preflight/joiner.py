"""This server as one that joins: what an earlier k3s left here, and who stands between it and the others."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

from k3s_ha_agent.host.units import Units, UnitState
from k3s_ha_agent.k3s.configuration import Configuration
from k3s_ha_agent.k3s.layout import Layout
from k3s_ha_agent.preflight import identity, proxies
from k3s_ha_agent.preflight.answers import answer
from k3s_ha_agent.preflight.cluster import JoinerFacts, Proxies
from k3s_ha_agent.preflight.join_target import JoinTarget
from k3s_ha_agent.preflight.outside import Visitor
from k3s_ha_agent.preflight.results import Missing
from k3s_ha_agent.settings import Settings

AGENT_UNIT = "k3s-agent.service"
PROVISIONED = frozenset({"manifests", "static"})
"""What people put into ``server/`` before k3s is started for the first time, and k3s leaves alone."""
_LEARNED = ("*.crt", "*.key", "*.kubeconfig", "etc/k3s-*load-balancer.json")
"""What an agent or a server keeps of its cluster below ``agent/``; images for an air gap are not among it."""


def visitor(settings: Settings, target: JoinTarget, node_name: str) -> Visitor:
    return Visitor(target, node_name, settings.runtime_dir, settings.root / "etc/rancher/node/password")


async def joiner(
    settings: Settings, units: Units, unit: UnitState | Missing, configuration: Configuration | Missing
) -> JoinerFacts | Missing:
    """Missing, seeing the check ``empty-data-dir`` or ``unit``, when this server cannot be looked at."""
    layout = Layout(settings.data_dir)
    server = await answer("What is in the data dir", asyncio.to_thread(_server_entries, layout), see="empty-data-dir")
    agent = await answer("What is in the data dir", asyncio.to_thread(_agent_entries, layout), see="empty-data-dir")
    agent_unit = await answer(f"The state of {AGENT_UNIT}", units.state(AGENT_UNIT), see="unit")
    if isinstance(server, Missing):
        return server
    if isinstance(agent, Missing):
        return agent
    if isinstance(agent_unit, Missing):
        return agent_unit
    proxies_found = await _proxies(unit, settings.root)
    nameless = await asyncio.to_thread(identity.node_id_missing, configuration, settings.root)
    return JoinerFacts(server, agent, agent_unit.load_state != "not-found", proxies_found, nameless)


async def _proxies(unit: UnitState | Missing, root: Path) -> Proxies | Missing:
    if isinstance(unit, Missing):
        return unit
    return await answer(
        "The proxies in k3s's environment",
        asyncio.to_thread(proxies.read, unit.name, unit.environment, unit.environment_files, root),
        see="proxies",
    )


def _server_entries(layout: Layout) -> tuple[str, ...]:
    """An empty directory says nothing."""
    return tuple(sorted(path.name for path in _entries(layout.server) if path.name not in PROVISIONED))


def _agent_entries(layout: Layout) -> tuple[str, ...]:
    agent = layout.data_dir / "agent"
    return tuple(sorted(str(path.relative_to(agent)) for pattern in _LEARNED for path in agent.glob(pattern)))


def _entries(directory: Path) -> Iterator[Path]:
    try:
        found = list(directory.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return
    for path in found:
        if path.is_symlink() or not path.is_dir() or any(path.iterdir()):
            yield path
