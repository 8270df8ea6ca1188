"""In a dual-stack cluster it is certain which address etcd gets."""

from __future__ import annotations

import ipaddress

from k3s_ha_agent.k3s.configuration import Configuration
from k3s_ha_agent.model import CheckResult, Kind
from k3s_ha_agent.preflight.addresses import parts, pinned
from k3s_ha_agent.preflight.results import About, known, passed, refused, warned
from k3s_ha_agent.preflight.subject import Subject

NAME = "dual-stack"
FOR = frozenset({Kind.MIGRATE, Kind.JOIN})
ABOUT = About(
    looks_at="the families in `cluster-cidr`, `service-cidr` and `node-ip`",
    refuses="one of them holds something that is no address: k3s does not start with it",
    warns="both families are in use and `node-ip` does not begin with an IPv4 address: k3s may give etcd the IPv6 one",
    remedy="set `node-ip` with the address first that etcd should be known by",
    facts="M17",
)


def check(subject: Subject) -> CheckResult:
    configuration = known(subject.configuration)
    fixed = pinned(configuration)
    try:
        dual = any(len(_families(configuration, flag)) > 1 for flag in ("cluster-cidr", "service-cidr", "node-ip"))
    except ValueError as error:
        return refused(
            NAME,
            f"Among cluster-cidr, service-cidr and node-ip: {error}.",
            "Addresses and networks: k3s does not start with anything else.",
            f"Correct it; systemctl restart {subject.settings.unit}",
        )
    if not dual:
        return passed(NAME, "One address family.")
    if not fixed or ":" in fixed[0]:
        said = f"node-ip begins with {fixed[0]}" if fixed else "node-ip is not set"
        return warned(
            NAME,
            f"IPv4 and IPv6 are both in use, and {said}.",
            "The address etcd should be known by, first in node-ip.",
            f"Put node-ip: <IPv4>,<IPv6> into {subject.settings.k3s_config}; systemctl restart {subject.settings.unit}",
        )
    return passed(NAME, f"IPv4 and IPv6 are both in use; node-ip gives etcd {fixed[0]}.")


def _families(configuration: Configuration, flag: str) -> set[int]:
    return {ipaddress.ip_network(part, strict=False).version for part in parts(configuration, flag)}
