"""Preflight as one object: what the agent keeps, and asks whenever somebody wants to know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from k3s_ha_agent.errors import InvalidBody
from k3s_ha_agent.host.units import Units
from k3s_ha_agent.model import CheckResult, ClusterView, Kind, NodeState, Operation
from k3s_ha_agent.preflight import identity
from k3s_ha_agent.preflight.addresses import own
from k3s_ha_agent.preflight.gather import PreImageReader, gather
from k3s_ha_agent.preflight.join_target import JoinTarget
from k3s_ha_agent.preflight.members import cluster_view
from k3s_ha_agent.preflight.results import Missing
from k3s_ha_agent.preflight.run import checks_for, run
from k3s_ha_agent.preflight.subject import Subject
from k3s_ha_agent.preflight.survey import survey
from k3s_ha_agent.settings import Settings


class NodeInspector:
    """Looks at this server. ``pre_image_of`` finds and verifies the pre-image of a rollback."""

    def __init__(self, settings: Settings, units: Units, *, pre_image_of: PreImageReader) -> None:
        self._settings = settings
        self._units = units
        self._pre_image_of = pre_image_of

    async def examine(
        self,
        kind: Kind,
        *,
        accept_slow_disk: bool,
        history: Sequence[Operation],
        target: JoinTarget | None = None,
    ) -> tuple[tuple[CheckResult, ...], Mapping[str, Any]]:
        """The result of every check, and the facts a plan needs (``facts_of``).

        InvalidBody for a join without its target: its checks are about the cluster.
        """
        checks_for(kind)
        if kind is Kind.JOIN and target is None:
            raise InvalidBody(
                "The checks of a join ask the server that is to be joined, and none is named here.",
                next_step='Send POST /v1/join {"server": "https://HOST:6443", "token_file": PATH, "dry_run": true}, '
                "or k3s-ha-agentctl join --dry-run.",
            )
        subject = await gather(
            self._settings,
            self._units,
            kind,
            history=history,
            pre_image_of=self._pre_image_of,
            accept_slow_disk=accept_slow_disk,
            target=target,
        )
        return await run(kind, subject), facts_of(subject)

    async def survey(self) -> NodeState:
        return await survey(self._settings, self._units)

    async def cluster(self) -> ClusterView:
        return await cluster_view(self._settings, self._units)


def facts_of(subject: Subject) -> dict[str, Any]:
    """What a plan needs to know of this server, as JSON values; None for what is not known."""
    summary = None if isinstance(subject.kine, Missing) else subject.kine
    if subject.kind is Kind.JOIN:
        return _facts_of_join(subject)
    members = {}
    if subject.kind is Kind.ROLLBACK and not isinstance(subject.members, Missing):
        members = {"members": [member.name for member in subject.members]}
    return {
        **members,
        "node_name": subject.node_name if isinstance(subject.node, Missing) else subject.node.name,
        "api_port": identity.api_port(subject.configuration),
        "k3s_version": None if isinstance(subject.version, Missing) else str(subject.version),
        "live_rows": None if summary is None else summary.live_rows,
        "live_bytes": None if summary is None else summary.live_bytes,
        "fsync_p99": None if isinstance(subject.fsync, Missing) else subject.fsync.p99,
    }


def _facts_of_join(subject: Subject) -> dict[str, Any]:
    configuration, found = subject.configuration, subject.addresses
    address = None
    if not isinstance(configuration, Missing) and not isinstance(found, Missing):
        address = own(configuration, found.default)
    return {
        "node_name": subject.node_name,
        "api_port": identity.api_port(configuration),
        "k3s_version": None if isinstance(subject.version, Missing) else str(subject.version),
        "node_ip": address,
        "target": None if isinstance(subject.cluster, Missing) else subject.cluster.url,
        "fsync_p99": None if isinstance(subject.fsync, Missing) else subject.fsync.p99,
    }
