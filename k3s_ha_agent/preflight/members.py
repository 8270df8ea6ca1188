"""The cluster as this server sees it, for ``GET /v1/members``: who votes, who leads, who answers, what may fail."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from k3s_ha_agent.errors import EtcdError
from k3s_ha_agent.host.units import Units
from k3s_ha_agent.k3s.apiserver import MEMBER_NAME, VOTES, Apiserver, Node
from k3s_ha_agent.k3s.etcd import EtcdClient, EtcdStatus, Member
from k3s_ha_agent.k3s.http_client import client_ssl
from k3s_ha_agent.k3s.layout import Layout, datastore
from k3s_ha_agent.model import ClusterMember, ClusterView, Datastore, Quorum, availability
from k3s_ha_agent.preflight import identity
from k3s_ha_agent.preflight.answers import answer
from k3s_ha_agent.preflight.results import Missing
from k3s_ha_agent.preflight.sources import read_configuration
from k3s_ha_agent.settings import Settings

LIMIT = 5.0
"""Seconds for each source. With the quorum lost the API hangs ("Seen" 11) and etcd lists no members."""

NO_ETCD: Mapping[Datastore, str] = {
    Datastore.SQLITE: "This server runs on SQLite and stands alone: its failure stops the cluster. "
    "k3s-ha-agentctl migrate moves it to etcd, which others can join.",
    Datastore.NONE: "This server has no datastore. k3s-ha-agentctl join makes it a member of a cluster.",
    Datastore.HALF_COPIED: "This server has a half-copied etcd and is no member of a cluster.",
    Datastore.EXTERNAL: "This server uses an external datastore; it has no members.",
}


class _Etcd(NamedTuple):
    members: Sequence[Member]
    status: EtcdStatus | Missing
    alarms: Sequence[str] | Missing


async def cluster_view(settings: Settings, units: Units) -> ClusterView:
    """The cluster of this server. Never raises for what does not answer; takes some seconds then."""
    layout = Layout(settings.data_dir)
    found = await answer("The datastore", asyncio.to_thread(datastore, layout), limit=LIMIT)
    if isinstance(found, Missing):
        return ClusterView((), None, None, found.reason)
    if found[0] is not Datastore.ETCD:
        return ClusterView((), None, None, NO_ETCD[found[0]])
    etcd = await answer("The members of etcd", _ask_etcd(layout), limit=3 * LIMIT)
    if isinstance(etcd, Missing):
        return ClusterView(
            (), None, None, f"The members are not known: {etcd.reason} Either k3s does not run or the quorum is lost."
        )
    nodes, answering = await asyncio.gather(_nodes(settings, units, layout), _answering(layout, etcd.members))
    return view(etcd.members, etcd.status, etcd.alarms, nodes, answering)


async def _ask_etcd(layout: Layout) -> _Etcd:
    async with await asyncio.to_thread(EtcdClient.from_layout, layout, timeout=LIMIT) as client:
        members = await client.members()
        status = await answer("The state of etcd", client.status(), limit=LIMIT)
        return _Etcd(members, status, await answer("etcd's alarms", client.alarms(), limit=LIMIT))


async def _nodes(settings: Settings, units: Units, layout: Layout) -> Sequence[Node] | Missing:
    unit = await answer("The unit", units.state(settings.unit), limit=LIMIT)
    port = identity.api_port(await read_configuration(settings, unit))
    api = await answer("The API server", asyncio.to_thread(Apiserver.from_layout, layout, port, timeout=LIMIT))
    if isinstance(api, Missing):
        return api
    async with api:
        return await answer("The Nodes", api.nodes(), limit=LIMIT + 1)


async def _answering(layout: Layout, members: Sequence[Member]) -> Mapping[int, bool]:
    """Whether the etcd of each member takes our client certificate on a client URL; all at once."""
    context = await answer("The certificates of etcd", asyncio.to_thread(_etcd_ssl, layout), limit=LIMIT)
    if isinstance(context, Missing):
        return {}
    found = await asyncio.gather(*(_answers(member, context) for member in members))
    return {member.id: yes for member, yes in zip(members, found, strict=True)}


def _etcd_ssl(layout: Layout) -> ssl.SSLContext:
    try:
        return client_ssl(str(layout.etcd_server_ca), str(layout.etcd_client_cert), str(layout.etcd_client_key))
    except OSError as error:
        raise EtcdError(f"The certificates in {layout.tls}/etcd cannot be read: {error}.") from error


async def _answers(member: Member, context: ssl.SSLContext) -> bool:
    for url in member.client_urls:
        parts = urllib.parse.urlsplit(url)
        try:
            async with asyncio.timeout(LIMIT):
                _, writer = await asyncio.open_connection(parts.hostname, parts.port or 2379, ssl=context)
        except (OSError, TimeoutError):  # ssl.SSLError is an OSError
            continue
        writer.close()
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(1.0):
                await writer.wait_closed()
        return True
    return False


# --- out of what was found --------------------------------------------------------------------------


def view(
    members: Sequence[Member],
    status: EtcdStatus | Missing,
    alarms: Sequence[str] | Missing,
    nodes: Sequence[Node] | Missing,
    answering: Mapping[int, bool],
) -> ClusterView:
    """The view of what was found, in the order of the members' names."""
    known = () if isinstance(nodes, Missing) else nodes
    shown = tuple(
        _shown(member, status, _node_of(member, known), answering.get(member.id, False))
        for member in sorted(members, key=lambda member: (member.is_learner, member.name))
    )
    voters = sum(1 for member in shown if member.voter)
    needed = voters // 2 + 1
    up = sum(1 for member in shown if member.voter and member.answers)
    quorum = Quorum(voters, needed, voters - needed, up)
    raised = None if isinstance(alarms, Missing) else tuple(sorted(set(alarms)))
    return ClusterView(shown, quorum, raised, sentence(shown, quorum, raised))


def _shown(member: Member, status: EtcdStatus | Missing, node: Node | None, answers: bool) -> ClusterMember:
    leader = None if isinstance(status, Missing) or not status.leader else status.leader == member.id
    return ClusterMember(
        id=f"{member.id:x}",
        name=member.name,
        node=node.name if node is not None else _made_of(member),
        address=next((urllib.parse.urlsplit(url).hostname or "" for url in member.peer_urls), ""),
        voter=not member.is_learner,
        learner=member.is_learner,
        leader=leader,
        answers=answers,
        healthy=_healthy(node, answers),
    )


def _healthy(node: Node | None, answers: bool) -> bool | None:
    """It answers, its Node is Ready and, where the release says so (2023-11), k3s's leader calls it a voter."""
    if not answers:
        return False
    if node is None:
        return None
    return node.ready and node.conditions.get(VOTES, "True") == "True"


def _node_of(member: Member, nodes: Sequence[Node]) -> Node | None:
    """The Node that k3s says is the member's (k3s-facts 4.6), or before it says so the one of the member's name,
    which in releases of 2021 may be another (4.9)."""
    if not member.name:
        return None
    said = (node for node in nodes if node.annotations.get(MEMBER_NAME) == member.name)
    named = (node for node in nodes if node.name == _made_of(member) and MEMBER_NAME not in node.annotations)
    return next(said, None) or next(named, None)


def _made_of(member: Member) -> str:
    """What a member's name was made of: ``n1`` of ``n1-2f70a4be``."""
    return member.name.rpartition("-")[0]


def sentence(members: Sequence[ClusterMember], quorum: Quorum, alarms: Sequence[str] | None) -> str:
    """What a person needs to know, most urgent first."""
    said = []
    silent = [member.node or member.name or member.address for member in members if member.voter and not member.answers]
    if quorum.up < quorum.needed:
        said.append(f"The quorum is lost: {quorum.up} of {quorum.voters} answer, {quorum.needed} are needed.")
    elif silent:
        left = quorum.up - quorum.needed
        more = "no further one may fail" if not left else f"{left} more may fail"
        said.append(f"{quorum.voters} servers, {', '.join(silent)} not answering: {more}.")
    else:
        said.append(availability(quorum.voters))
    said += [f"Alarm: {alarm}." for alarm in alarms or ()]
    said += [
        f"{member.node or member.address} is a learner and does not vote yet." for member in members if member.learner
    ]
    return " ".join(said)
