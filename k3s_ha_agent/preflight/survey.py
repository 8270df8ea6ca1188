"""What this server is, for ``GET /v1/status``: quick, and complete whatever does not answer."""

from __future__ import annotations

import asyncio
import threading

from k3s_ha_agent.host.units import Units
from k3s_ha_agent.k3s import kine
from k3s_ha_agent.k3s.configuration import Configuration
from k3s_ha_agent.k3s.etcd import EtcdClient
from k3s_ha_agent.k3s.layout import Layout, datastore
from k3s_ha_agent.model import Datastore, NodeState
from k3s_ha_agent.preflight import identity
from k3s_ha_agent.preflight.answers import answer
from k3s_ha_agent.preflight.results import Missing, T
from k3s_ha_agent.preflight.sayings import said_by, set_anywhere
from k3s_ha_agent.preflight.sources import ask_apiserver, k3s_version, read_configuration, rescue_armed
from k3s_ha_agent.settings import Settings

LIMIT = 5.0
"""Seconds for each source."""

_counting = threading.Lock()
"""Held while the keys of a SQLite database are counted: a thread cannot be called back, and one that
is too slow for its caller must not be joined by another for each request."""


async def survey(settings: Settings, units: Units) -> NodeState:
    """The state of this server. Never raises for a source that does not answer: that part is None."""
    layout = Layout(settings.data_dir)
    unit = await answer(f"The state of {settings.unit}", units.state(settings.unit), limit=LIMIT)
    configuration = await read_configuration(settings, unit)
    name = await asyncio.to_thread(identity.node_name, configuration, settings.root)
    (verdict, detail), api, rescue, gate = await asyncio.gather(
        _datastore(layout, configuration),
        ask_apiserver(layout, identity.api_port(configuration), name, limit=LIMIT),
        answer("The rescue's timer", rescue_armed(units), limit=LIMIT),
        answer("The gate", asyncio.to_thread(settings.gate.exists), limit=LIMIT),
    )
    node = _value(api.node)
    ready = _value(api.ready)
    version = _value(api.version) or _value(await k3s_version(unit))
    found_unit = _value(unit)
    return NodeState(
        unit=settings.unit,
        unit_active_state=None if found_unit is None else found_unit.active_state,
        k3s_version=None if version is None else str(version),
        node_name=name,
        node_ready=None if node is None else node.ready,
        roles=None if node is None else node.roles,
        api_ready=None if ready is None else bool(ready),
        datastore=verdict,
        datastore_detail=detail,
        live_keys=await _live_keys(layout, verdict),
        gate_closed=_value(gate) or False,
        rescue_armed=_value(rescue) or False,
    )


def _value(found: T | Missing) -> T | None:
    return None if isinstance(found, Missing) else found


async def _datastore(layout: Layout, configuration: Configuration | Missing) -> tuple[Datastore, str]:
    """By the files; an external one by the configuration, which etcd's own files overrule ("ten facts" 1)."""
    found = await answer("The datastore", asyncio.to_thread(datastore, layout), limit=LIMIT)
    if isinstance(found, Missing):
        return Datastore.NONE, found.reason
    external = [] if isinstance(configuration, Missing) else set_anywhere(configuration, "datastore-endpoint")
    if external and found[0] not in (Datastore.ETCD, Datastore.HALF_COPIED):
        return Datastore.EXTERNAL, f"An external datastore is configured: {said_by(external)}."
    return found


async def _live_keys(layout: Layout, verdict: Datastore) -> int | None:
    """The live keys under /registry/: what a migration has to carry over, or has carried."""
    if verdict is Datastore.SQLITE:
        return _value(await answer("The number of keys", asyncio.to_thread(_count_rows, layout), limit=LIMIT))
    if verdict is Datastore.ETCD:
        return _value(await answer("The number of keys", _count_keys(layout), limit=LIMIT))
    return None


def _count_rows(layout: Layout) -> int | None:
    if not _counting.acquire(blocking=False):
        return None
    try:
        return kine.summarize(layout.state_db).live_rows
    finally:
        _counting.release()


async def _count_keys(layout: Layout) -> int:
    async with await asyncio.to_thread(EtcdClient.from_layout, layout, timeout=LIMIT) as client:
        return await client.count(kine.REGISTRY.encode())
