"""Asking k3s, its unit, its binary and its APIs: what both a Subject and a survey want to know."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import NamedTuple

from k3s_ha_agent.host.units import Units, UnitState
from k3s_ha_agent.k3s import configuration as k3s_configuration
from k3s_ha_agent.k3s.apiserver import Apiserver, Node, Readiness
from k3s_ha_agent.k3s.configuration import Configuration
from k3s_ha_agent.k3s.etcd import EtcdClient, Member
from k3s_ha_agent.k3s.layout import Layout
from k3s_ha_agent.k3s.version import Version
from k3s_ha_agent.preflight import binary
from k3s_ha_agent.preflight.answers import LIMIT, answer
from k3s_ha_agent.preflight.results import Missing
from k3s_ha_agent.settings import RESCUE_TIMER, Settings


async def read_configuration(settings: Settings, unit: UnitState | Missing) -> Configuration | Missing:
    """k3s's configuration as the unit, its environment and the YAML files say it."""
    if isinstance(unit, Missing):
        return unit
    if unit.load_state != "loaded":
        return Missing(f"{unit.name} is {unit.load_state}, so k3s's configuration is not known.", "unit")
    return await answer(
        "k3s's configuration",
        asyncio.to_thread(
            k3s_configuration.read,
            unit.exec_start,
            unit.environment,
            unit.environment_files,
            settings.root,
            settings.k3s_config,
            unit=unit.name,
        ),
        see="configuration",
    )


async def k3s_version(unit: UnitState | Missing) -> Version | Missing:
    if isinstance(unit, Missing):
        return unit
    if unit.load_state != "loaded":
        return Missing(f"{unit.name} is {unit.load_state}, so the version of k3s is not known.", "unit")
    return await answer("The version of k3s", binary.version(unit.exec_start), see="version")


class ApiAnswers(NamedTuple):
    ready: Readiness | Missing
    node: Node | Missing
    version: str | Missing


async def ask_apiserver(layout: Layout, port: int, name: str, *, limit: float = LIMIT) -> ApiAnswers:
    """Whether it is ready, this server's Node and its version; each Missing when it does not say."""
    api = await answer(
        "The API server",
        asyncio.to_thread(Apiserver.from_layout, layout, port, timeout=limit),
        see="credentials",
        limit=limit,
    )
    if isinstance(api, Missing):
        return ApiAnswers(api, api, api)
    async with api:
        return ApiAnswers(
            *await asyncio.gather(
                answer("Whether the API server is ready", api.readyz(), see="node", limit=limit + 1),
                answer(f"Node {name}", api.node(name), see="node", limit=limit + 1),
                answer("The version of the API server", api.version(), see="node", limit=limit + 1),
            )
        )


async def ask_members(layout: Layout) -> tuple[Member, ...] | Missing:
    """etcd's members. It runs inside of k3s: where that does not run, the unit is what to look at."""
    client = await answer(
        "The members of etcd", asyncio.to_thread(EtcdClient.from_layout, layout, timeout=LIMIT), see="unit"
    )
    if isinstance(client, Missing):
        return _look_at_etcd(client)
    async with client:
        members = await answer("The members of etcd", client.members(), see="unit")
    return _look_at_etcd(members) if isinstance(members, Missing) else tuple(members)


def _look_at_etcd(missing: Missing) -> Missing:
    return dataclasses.replace(missing, remedy=missing.remedy or "Look at what k3s says of its etcd, then ask again.")


async def rescue_armed(units: Units) -> bool:
    """Whether the rescue's timer runs. SystemdError when systemd does not say."""
    return (await units.state(RESCUE_TIMER)).active_state == "active"
