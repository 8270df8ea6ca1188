"""Everything the checks look at, found out once and then frozen.

A Subject holds no secret: of a token only the hashes. What could not be found out is ``Missing``
with its reason.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from k3s_ha_agent.host.resources import Disk, FsyncProbe, Listener, Memory
from k3s_ha_agent.host.units import UnitState
from k3s_ha_agent.k3s.apiserver import Node, Readiness
from k3s_ha_agent.k3s.configuration import Configuration, drop_in_path
from k3s_ha_agent.k3s.etcd import Member
from k3s_ha_agent.k3s.kine import KineSummary
from k3s_ha_agent.k3s.layout import Layout
from k3s_ha_agent.k3s.version import Version
from k3s_ha_agent.model import Kind
from k3s_ha_agent.preflight.cluster import ClusterFacts, JoinerFacts
from k3s_ha_agent.preflight.files import FileFacts
from k3s_ha_agent.preflight.results import OTHER_KIND, Missing
from k3s_ha_agent.settings import Settings


@dataclasses.dataclass(frozen=True, slots=True)
class TokenFacts:
    """What a token says of itself without giving it away."""

    source: str
    """Who says it: a path, or a setting and where it stands."""
    short_hash: str
    """The hash in the bootstrap key, ``sha256(password)[:12]``."""
    ca_hash: str | None
    """None for a bare password."""


@dataclasses.dataclass(frozen=True, slots=True)
class Addresses:
    local: tuple[str, ...]
    """The addresses of this machine."""
    dynamic: tuple[str, ...]
    """Those of them with a limited lifetime, as a DHCP client leaves them."""
    default: str | None
    """The one k3s takes when nothing is pinned, by the default route; None when there is none."""


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """A directory the operation fills, with the file system it lies on."""

    path: Path
    disk: Disk


@dataclasses.dataclass(frozen=True, slots=True)
class Places:
    db: Place
    """``server/db``"""
    state: Place
    """The agent's state dir."""
    systemd: Place
    """Where the gate is written."""
    config: Place
    """Where our drop-in for k3s is written."""


@dataclasses.dataclass(frozen=True, slots=True)
class PreImage:
    """The pre-image a rollback would put back, as whoever reads pre-images found it."""

    operation: str
    directory: Path
    k3s_version: str
    """``k3s --version`` when it was made, like ``v1.22.2+k3s1``."""
    bytes: int
    problem: str | None = None
    """Why it cannot be used, None when its manifest holds."""


@dataclasses.dataclass(frozen=True, slots=True)
class Subject:
    kind: Kind
    settings: Settings
    layout: Layout
    unit: UnitState | Missing
    configuration: Configuration | Missing
    version: Version | Missing
    """Of the binary the unit would start."""
    running_version: str | Missing
    """What the API server that runs now says, like ``v1.22.2+k3s1``."""
    files: FileFacts | Missing
    kine: KineSummary | Missing
    """Of a copy made by SQLite's backup API, which passed the integrity check."""
    places: Places | Missing
    memory: Memory | Missing
    listeners: Mapping[int, Sequence[Listener]] | Missing
    """Who listens on the ports etcd needs, by port."""
    fsync: FsyncProbe | Missing
    addresses: Addresses | Missing
    clock_synchronised: bool | Missing
    server_token: TokenFacts | Missing
    """Of ``server/token``."""
    configured_tokens: tuple[TokenFacts, ...] | Missing
    """Of every token in k3s's configuration (``token``, ``token-file``, ``cluster-secret``)."""
    server_ca_hash: str | Missing
    node_name: str
    """What k3s's configuration calls this server."""
    node: Node | Missing
    api_ready: Readiness | Missing
    members: tuple[Member, ...] | Missing
    """etcd's members, for a rollback."""
    rescue_armed: bool | Missing
    unfinished: str | None
    """Id of an operation that is not finished, the one asked for not counted."""
    pre_image: PreImage | Missing
    accept_slow_disk: bool = False
    cluster: ClusterFacts | Missing = OTHER_KIND
    """The cluster to be joined, for a join."""
    joiner: JoinerFacts | Missing = OTHER_KIND
    """This server, for a join."""

    @property
    def drop_in(self) -> Path:
        """Our drop-in for k3s."""
        return drop_in_path(self.settings.k3s_config)
