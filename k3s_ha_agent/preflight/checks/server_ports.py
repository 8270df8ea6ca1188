"""The ports of the other servers can be reached from here."""

from __future__ import annotations

from k3s_ha_agent.model import CheckResult, Kind
from k3s_ha_agent.preflight.results import About, known, passed, refused
from k3s_ha_agent.preflight.subject import Subject

NAME = "server-ports"
FOR = frozenset({Kind.JOIN})
ABOUT = About(
    looks_at="connections from here to 2379 and 2380 of every member and to the API port of every server",
    refuses="one is refused or not answered within five seconds",
    warns="",
    remedy="open 2379, 2380 and 6443 between all servers, both ways",
    facts="J7, 4.5",
)


def check(subject: Subject) -> CheckResult:
    ports = known(known(subject.cluster).ports)
    closed = [f"{port.host}:{port.port} of {port.server} ({why})" for port, why in ports.items() if why is not None]
    if closed:
        return refused(
            NAME,
            f"Cannot be reached from here: {', '.join(closed)}.",
            "2379, 2380 and the API port of every server: etcd's members speak with each other directly.",
            "Open them in the firewalls of those servers and in between; nc -zv HOST PORT tries one",
        )
    shown = ", ".join(f"{port.host}:{port.port}" for port in ports)
    return passed(NAME, f"Can be reached from here: {shown}.")
