"""etcd will get the address this node has."""

from __future__ import annotations

from k3s_ha_agent.model import CheckResult, Kind
from k3s_ha_agent.preflight.addresses import pinned
from k3s_ha_agent.preflight.results import About, known, passed, refused
from k3s_ha_agent.preflight.subject import Subject

NAME = "node-address"
FOR = frozenset({Kind.MIGRATE})
ABOUT = About(
    looks_at="`node-ip`, the InternalIP of the Node, the addresses of this machine and the one its default route uses",
    refuses="the address k3s would give etcd (the first `node-ip`, else that of the default route) is not on "
    "this machine "
    "or is not the Node's: the member would not be found again",
    warns="",
    remedy="correct `node-ip`, restart k3s, see that the Node has it",
    facts="M17",
)


def check(subject: Subject) -> CheckResult:
    fixed = pinned(known(subject.configuration))
    addresses = known(subject.addresses)
    internal = known(subject.node).internal_ip
    chosen = fixed[0] if fixed else (addresses.default or internal)
    who = "node-ip" if fixed else "the default route"
    remedy = f"Put node-ip: {internal} into {subject.settings.k3s_config}; systemctl restart {subject.settings.unit}"
    if chosen not in addresses.local:
        return refused(
            NAME,
            f"{who} says {chosen}, which this machine does not have; it has {', '.join(addresses.local)}.",
            "An address of this machine: etcd listens on it and is known by it.",
            f"ip -brief address; correct node-ip in {subject.settings.k3s_config}; "
            f"systemctl restart {subject.settings.unit}",
        )
    if chosen != internal:
        return refused(
            NAME,
            f"{who} says {chosen}, the Node has {internal}.",
            "The same address: etcd would be another member than the Node says.",
            remedy,
        )
    return passed(NAME, f"etcd will be known by {chosen}, the Node's address, from {who}.")
