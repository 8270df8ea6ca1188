"""Finding out everything a Subject holds. Nothing below k3s's data dir is changed.

Each source has its own time limit; one that does not answer is ``Missing`` and costs the checks
that need it, not the others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from k3s_ha_agent.host import addresses, resources
from k3s_ha_agent.host.resources import FsyncProbe
from k3s_ha_agent.host.units import Units, UnitState
from k3s_ha_agent.k3s.configuration import Configuration, drop_in_path
from k3s_ha_agent.k3s.kine import KineSummary
from k3s_ha_agent.k3s.layout import Layout
from k3s_ha_agent.model import Datastore, Kind, Operation
from k3s_ha_agent.preflight import files, identity, ports, sqlite_copy, tokens
from k3s_ha_agent.preflight.addresses import default_address
from k3s_ha_agent.preflight.answers import answer
from k3s_ha_agent.preflight.cluster import ClusterFacts
from k3s_ha_agent.preflight.files import FileFacts, nearest
from k3s_ha_agent.preflight.join_target import JoinTarget
from k3s_ha_agent.preflight.joiner import joiner, visitor
from k3s_ha_agent.preflight.outside import look
from k3s_ha_agent.preflight.results import OTHER_KIND, Missing
from k3s_ha_agent.preflight.sources import (
    ApiAnswers,
    ask_apiserver,
    ask_members,
    k3s_version,
    read_configuration,
    rescue_armed,
)
from k3s_ha_agent.preflight.subject import Addresses, Place, Places, PreImage, Subject, TokenFacts
from k3s_ha_agent.settings import Settings

T = TypeVar("T")

COPY_LIMIT = 1800.0
"""Seconds for copying and checking the SQLite database; databases of 12 GB exist (M13)."""
PROBE_LIMIT = 180.0
"""Seconds for the fsync probe: on the slowest cards one fsync takes a second."""
PRE_IMAGE_LIMIT = 1800.0
"""Seconds for hashing a pre-image."""

PreImageReader = Callable[[Sequence[Operation]], PreImage | Missing]
"""Finds and verifies the pre-image a rollback would use, given every operation; blocks."""


async def gather(
    settings: Settings,
    units: Units,
    kind: Kind,
    *,
    history: Sequence[Operation] = (),
    pre_image_of: PreImageReader | None = None,
    accept_slow_disk: bool = False,
    target: JoinTarget | None = None,
) -> Subject:
    """What the checks of ``kind`` look at. Takes as long as a copy of the database takes.

    ``history`` is every operation there is, finished or not; ``pre_image_of`` is needed for a
    rollback, ``target`` for a join.
    """
    layout = Layout(settings.data_dir)
    migrate, join = kind is Kind.MIGRATE, kind is Kind.JOIN
    unit = await answer(f"The state of {settings.unit}", units.state(settings.unit), see="unit")
    configuration = await read_configuration(settings, unit)
    found = await _thread(f"What is below {layout.server}", _look_at_files, settings, layout, unit, configuration)
    # The disk is measured before the copy is made: ours must not be the load that is found.
    fsync = await _probe(settings, layout) if migrate or join else OTHER_KIND
    name = await asyncio.to_thread(identity.node_name, configuration, settings.root)
    port = identity.api_port(configuration)
    summary, api, cluster = await asyncio.gather(
        _summary(settings, layout, found) if migrate else _nothing(),
        _no_api() if join else ask_apiserver(layout, port, name),
        _cluster(settings, target, name),
    )
    return Subject(
        kind=kind,
        settings=settings,
        layout=layout,
        unit=unit,
        configuration=configuration,
        version=await k3s_version(unit),
        running_version=api.version,
        files=found,
        kine=summary,
        places=await _thread("The free room on the disks", _places, settings, layout),
        memory=await _thread("The free memory", resources.memory),
        listeners=await _thread(
            "Who listens on etcd's ports", resources.listening, (*ports.ALL, *ports.of_a_server(port))
        ),
        fsync=fsync,
        addresses=await _thread("The addresses of this machine", _addresses),
        clock_synchronised=await _thread("The state of the clock", _synchronised),
        server_token=OTHER_KIND
        if join
        else await _thread("The server token", tokens.server_token, layout, see="token"),
        configured_tokens=await _tokens(configuration, "configured-token" if join else "token"),
        server_ca_hash=OTHER_KIND
        if join
        else await _thread("The CA of the cluster", tokens.server_ca_hash, layout, see="credentials"),
        node_name=name,
        node=api.node,
        api_ready=api.ready,
        members=await ask_members(layout) if kind is Kind.ROLLBACK else OTHER_KIND,
        rescue_armed=await answer("The rescue's timer", rescue_armed(units), see="unit"),
        unfinished=next((operation.id for operation in history if operation.outcome is None), None),
        pre_image=await _pre_image(pre_image_of, history) if kind is Kind.ROLLBACK else OTHER_KIND,
        accept_slow_disk=accept_slow_disk,
        cluster=cluster,
        joiner=await joiner(settings, units, unit, configuration) if join else OTHER_KIND,
    )


# --- k3s -----------------------------------------------------------------------------------------


async def _tokens(configuration: Configuration | Missing, see: str) -> tuple[TokenFacts, ...] | Missing:
    if isinstance(configuration, Missing):
        return configuration
    return await _thread("The configured token", tokens.configured_tokens, configuration, see=see)


async def _summary(settings: Settings, layout: Layout, found: FileFacts | Missing) -> KineSummary | Missing:
    if isinstance(found, Missing):
        return found
    if found.datastore is not Datastore.SQLITE:
        return Missing(found.datastore_detail, "datastore")
    return await answer(
        "What the SQLite database holds",
        sqlite_copy.summarize(layout.state_db, found.sqlite_bytes, settings.state_dir),
        limit=COPY_LIMIT,
        see="sqlite",
    )


async def _pre_image(read: PreImageReader | None, history: Sequence[Operation]) -> PreImage | Missing:
    if read is None:
        return Missing("Nobody can read pre-images here.", "pre-image")
    return await answer("The pre-image", asyncio.to_thread(read, history), limit=PRE_IMAGE_LIMIT, see="pre-image")


# --- the machine -----------------------------------------------------------------------------------


def _look_at_files(
    settings: Settings, layout: Layout, unit: UnitState | Missing, configuration: Configuration | Missing
) -> FileFacts:
    read: list[Path] = []
    if not isinstance(unit, Missing):
        fragment = [unit.fragment_path] if unit.fragment_path is not None else []
        read += [*fragment, *unit.drop_in_paths, *unit.environment_files]
    if not isinstance(configuration, Missing):
        read += [Path(source) for source in configuration.config_sources]
    return files.read(
        layout,
        drop_in=drop_in_path(settings.k3s_config),
        gate=settings.gate,
        state_dir=settings.state_dir,
        read_at_start=read,
    )


def _places(settings: Settings, layout: Layout) -> Places:
    def place(path: Path) -> Place:
        return Place(path, resources.disk(nearest(path)))

    return Places(
        db=place(layout.db),
        state=place(settings.state_dir),
        systemd=place(settings.gate.parent),
        config=place(drop_in_path(settings.k3s_config).parent),
    )


async def _probe(settings: Settings, layout: Layout) -> FsyncProbe | Missing:
    """On the file system of ``server/db``, but not in it where our own state dir shares it."""

    def probe() -> FsyncProbe:
        ours, theirs = nearest(settings.state_dir), nearest(layout.db)
        return resources.fsync_probe(ours if ours.stat().st_dev == theirs.stat().st_dev else theirs)

    return await answer("The speed of fsync", asyncio.to_thread(probe), limit=PROBE_LIMIT, see="slow-disk")


def _addresses() -> Addresses:
    found = addresses.addresses()
    return Addresses(
        local=tuple(str(each.address) for each in found),
        dynamic=tuple(str(each.address) for each in found if each.dynamic),
        default=default_address(Path("/proc/net/route").read_text(), found),
    )


def _synchronised() -> bool:
    return resources.clock_synchronised()


async def _thread(what: str, question: Callable[..., T], *args: object, see: str = "") -> T | Missing:
    return await answer(what, asyncio.to_thread(question, *args), see=see)


async def _nothing() -> Missing:
    return OTHER_KIND


async def _no_api() -> ApiAnswers:
    return ApiAnswers(OTHER_KIND, OTHER_KIND, OTHER_KIND)


async def _cluster(settings: Settings, target: JoinTarget | None, name: str) -> ClusterFacts | Missing:
    return OTHER_KIND if target is None else await look(visitor(settings, target, name))
