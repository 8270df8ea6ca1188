"""The other servers can reach this one: it cannot be known from here."""

from __future__ import annotations

from k3s_ha_agent.model import CheckResult, Kind
from k3s_ha_agent.preflight.addresses import own
from k3s_ha_agent.preflight.identity import api_port
from k3s_ha_agent.preflight.results import About, known, warned
from k3s_ha_agent.preflight.subject import Subject

NAME = "reverse-ports"
FOR = frozenset({Kind.JOIN})
ABOUT = About(
    looks_at="nothing: nobody here can tell what a firewall lets through in that direction before k3s listens",
    refuses="",
    warns="always: the other servers must reach 2379, 2380 and the API port here, or the join ends with “context "
    "deadline "
    "exceeded” and is undone",
    remedy="`nc -l -p 2380` here and `nc -zv` there, before the join",
    facts="J7",
)


def check(subject: Subject) -> CheckResult:
    address = own(known(subject.configuration), known(subject.addresses).default) or "this server"
    port = api_port(subject.configuration)
    return warned(
        NAME,
        f"Whether the other servers reach {address} on 2379, 2380 and {port} cannot be known from here.",
        "All three open to every server: without them etcd's leader cannot send this member its data.",
        f"Look at the firewall here (nft list ruleset); to try one: nc -l -p 2380 here, nc -zv {address} 2380 there",
    )
