"""This server has an address the others can know it by."""

from __future__ import annotations

import ipaddress

from k3s_ha_agent.model import CheckResult, Kind
from k3s_ha_agent.preflight.addresses import own, pinned
from k3s_ha_agent.preflight.results import About, known, passed, refused, warned
from k3s_ha_agent.preflight.subject import Subject

NAME = "own-address"
FOR = frozenset({Kind.JOIN})
ABOUT = About(
    looks_at="the first `node-ip`, else the address of the default route, and the addresses of this machine",
    refuses="there is none, it is not this machine's, or it is a loopback one",
    warns="it has a limited lifetime, as DHCP gives it, and `node-ip` does not pin it",
    remedy="set `node-ip`",
    facts="M17",
)


def check(subject: Subject) -> CheckResult:
    configuration, addresses = known(subject.configuration), known(subject.addresses)
    config = subject.settings.k3s_config
    address = own(configuration, addresses.default)
    needs = "A lasting address of this machine: etcd's member is known by it."
    if address is None:
        return refused(
            NAME, "node-ip is not set, and there is no default route.", needs, f"Put node-ip: ADDRESS into {config}"
        )
    if address not in addresses.local:
        return refused(
            NAME,
            f"node-ip says {address}, this machine has {', '.join(addresses.local)}.",
            needs,
            f"ip -brief address; put the right node-ip into {config}",
        )
    if ipaddress.ip_address(address).is_loopback:
        return refused(NAME, f"{address} is a loopback address.", needs, f"Put another node-ip into {config}")
    if address in addresses.dynamic and not pinned(configuration):
        return warned(
            NAME,
            f"{address} has a limited lifetime, as DHCP gives it, and node-ip does not pin it.",
            needs,
            f"Reserve {address} for this machine in DHCP; put node-ip: {address} into {config}",
        )
    return passed(NAME, f"etcd will know this server by {address}.")
