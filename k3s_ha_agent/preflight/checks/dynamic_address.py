"""The address etcd is known by will stay."""

from __future__ import annotations

from k3s_ha_agent.model import CheckResult, Kind
from k3s_ha_agent.preflight.addresses import pinned
from k3s_ha_agent.preflight.results import About, known, passed, warned
from k3s_ha_agent.preflight.subject import Subject

NAME = "dynamic-address"
FOR = frozenset({Kind.MIGRATE})
ABOUT = About(
    looks_at="the lifetime the kernel gives the Node's address, and `node-ip`",
    refuses="",
    warns="the address has a limited lifetime, as DHCP gives it, and `node-ip` does not pin it: with another "
    "address k3s "
    "does not find itself among etcd's members and never becomes ready",
    remedy="reserve the address in DHCP and set `node-ip`",
    facts="M17",
)


def check(subject: Subject) -> CheckResult:
    addresses = known(subject.addresses)
    fixed = pinned(known(subject.configuration))
    internal = known(subject.node).internal_ip
    if fixed:
        return passed(NAME, f"node-ip pins {fixed[0]}.")
    if internal in addresses.dynamic:
        return warned(
            NAME,
            f"{internal} has a limited lifetime, as DHCP gives it, and node-ip does not pin it.",
            "An address that stays: etcd knows this server by it.",
            f"Reserve {internal} for this machine in DHCP; put node-ip: {internal} into {subject.settings.k3s_config}; "
            f"systemctl restart {subject.settings.unit}",
        )
    return passed(NAME, f"{internal} is a lasting address of this machine.")
