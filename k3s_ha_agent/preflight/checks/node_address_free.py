"""No other server has the address of this one."""

from __future__ import annotations

import urllib.parse

from k3s_ha_agent.model import CheckResult, Kind
from k3s_ha_agent.preflight.addresses import own
from k3s_ha_agent.preflight.results import About, Missing, NotKnown, known, passed, refused
from k3s_ha_agent.preflight.subject import Subject

NAME = "node-address-free"
FOR = frozenset({Kind.JOIN})
ABOUT = About(
    looks_at="the address etcd will know this server by, the Nodes' InternalIPs and the members' peer URLs",
    refuses="a Node or a member has it already",
    warns="",
    remedy="set `node-ip` to an address of this machine alone; remove a member that is left over",
    facts="J4, M17",
)


def check(subject: Subject) -> CheckResult:
    cluster = known(subject.cluster)
    address = own(known(subject.configuration), known(subject.addresses).default)
    if address is None:
        raise NotKnown(Missing("This server has no address yet.", "own-address"))
    taken = [f"Node {node.name}" for node in known(cluster.nodes) if node.internal_ip == address]
    taken += [
        f"etcd member {member.name or f'{member.id:x} (never started)'}"
        for member in known(cluster.members)
        if any(urllib.parse.urlsplit(url).hostname == address for url in member.peer_urls)
    ]
    if taken:
        return refused(
            NAME,
            f"{address} is taken by {' and '.join(taken)}.",
            "An address of this server alone.",
            f"Put the right node-ip into {subject.settings.k3s_config}; or remove what is left over: "
            "k3s kubectl delete node NAME, which removes its member; a learner that never started goes by itself "
            "within 5 minutes",
        )
    return passed(NAME, f"{address} is in no Node and no member.")
