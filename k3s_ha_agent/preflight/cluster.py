"""What is known of the cluster that is to be joined, and of this server as one that joins.

As in a Subject there is no secret in it, and what could not be found out is ``Missing``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from k3s_ha_agent.k3s.apiserver import Node, Readiness
from k3s_ha_agent.k3s.etcd import Member
from k3s_ha_agent.k3s.supervisor import Encryption
from k3s_ha_agent.preflight.results import Missing


@dataclasses.dataclass(frozen=True, slots=True)
class Admission:
    """What became of the question for the bootstrap data."""

    http_status: int
    """200: the token is right and there is an etcd. 400: there is none; releases of 2021 say 401 to that, too (J1)."""
    message: str
    password_known: bool
    """The password opens ``/v1-k3s/config``, so that a refusal is not for the token."""


@dataclasses.dataclass(frozen=True, slots=True)
class Port:
    server: str
    """Name of the member or Node."""
    host: str
    port: int


@dataclasses.dataclass(frozen=True, slots=True)
class EtcdFacts:
    """What etcd's own gateway says; served to other servers until 2023-09 only."""

    alarms: tuple[str, ...]
    db_size: int
    """Bytes."""


@dataclasses.dataclass(frozen=True, slots=True)
class ClusterFacts:
    url: str
    host: str
    token_short_hash: str
    token_ca_hash: str
    """Empty for a bare password."""
    url_problem: str | None
    host_addresses: tuple[str, ...] | Missing
    """What the host of the URL resolves to."""
    ca_hash: str | Missing
    """Of the CA bundle the server shows."""
    clock_offset: float | Missing | None
    """Seconds its clock is ahead of ours; None when it does not say."""
    certificate_problem: str | Missing | None
    """Why its certificate does not fit the name it was asked by; None when it fits."""
    admission: Admission | Missing
    critical: Mapping[str, Any] | Missing
    """Of ``/v1-k3s/config`` only what must be equal on all servers."""
    encryption: Encryption | Missing | None
    """None when the release has no such question (before 2021-12)."""
    members: tuple[Member, ...] | Missing
    version: str | Missing
    api_ready: Readiness | Missing
    nodes: tuple[Node, ...] | Missing
    node_password: bool | Missing | None
    """Whether the password of this server is the one the cluster knows for its name; None when it knows none."""
    ports: Mapping[Port, str | None] | Missing
    """Why a port of another server cannot be reached from here; None when it can."""
    etcd: EtcdFacts | Missing


@dataclasses.dataclass(frozen=True, slots=True)
class Proxies:
    variables: tuple[str, ...]
    """Names of the proxy variables k3s gets, with their source; never a value, which may hold a password."""
    exempt: tuple[str, ...]
    """The entries of NO_PROXY."""


@dataclasses.dataclass(frozen=True, slots=True)
class JoinerFacts:
    """This server as one that joins."""

    server_entries: tuple[str, ...]
    """What lies in ``<data-dir>/server`` that another k3s server left, names only."""
    agent_entries: tuple[str, ...]
    """The same for ``<data-dir>/agent``: certificates, kubeconfigs, the learned server list."""
    agent_unit: bool
    """A unit ``k3s-agent.service`` exists."""
    proxies: Proxies | Missing
    node_id_missing: bool = False
    """``with-node-id`` is on and k3s has not made the id yet that is part of the Node's name."""
