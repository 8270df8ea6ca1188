"""etcd will get the address this node has."""

from __future__ import annotations

from k3s_ha_agent.model import CheckResult, Kind
from k3s_ha_agent.preflight.addresses import pinned
from k3s_ha_agent.preflight.results import About, known, passed, refused, warned
from k3s_ha_agent.preflight.subject import Subject

NAME = "node-address"
FOR = frozenset({Kind.MIGRATE})
ABOUT = About(
    looks_at="`node-ip`, the InternalIP of the Node, the addresses of this machine and the one its default route uses",
    refuses="the first `node-ip` is not the Node's InternalIP, or that is no address of this machine: etcd's member is "
    "known by the address k3s takes at its start, and would not be found again",
    warns="`node-ip` is not set, and by the default route k3s would now take another address than the Node has",
    remedy="set `node-ip` to the Node's InternalIP, restart k3s, see that the Node has it",
    facts="M17",
)


def check(subject: Subject) -> CheckResult:
    fixed = pinned(known(subject.configuration))
    addresses = known(subject.addresses)
    internal = known(subject.node).internal_ip
    config, unit = subject.settings.k3s_config, subject.settings.unit
    if fixed and fixed[0] != internal:
        return refused(
            NAME,
            f"node-ip says {fixed[0]}, the Node has {internal}.",
            "The same address: etcd would be another member than the Node says.",
            f"Correct node-ip or systemctl restart {unit}; see that k3s kubectl get nodes -o wide shows {fixed[0]}",
        )
    if internal not in addresses.local:
        return refused(
            NAME,
            f"The Node has {internal}, this machine has {', '.join(addresses.local)}.",
            "An address of this machine: etcd listens on it and is known by it.",
            f"ip -brief address; put the right node-ip into {config}; systemctl restart {unit}",
        )
    if not fixed and addresses.default not in (None, internal):
        return warned(
            NAME,
            f"The Node has {internal}, by the default route k3s would now take {addresses.default}.",
            "The same address at each start: with another one k3s does not find itself among etcd's members.",
            f"Put node-ip: {internal} into {config}; systemctl restart {unit}",
        )
    return passed(NAME, f"etcd will be known by {internal}, {'by node-ip' if fixed else 'the address of the Node'}.")
