"""The ports etcd needs are free."""

from __future__ import annotations

from k3s_ha_agent.host.resources import Listener
from k3s_ha_agent.model import CheckResult, Kind
from k3s_ha_agent.preflight.identity import api_port
from k3s_ha_agent.preflight.ports import needed, of_a_server
from k3s_ha_agent.preflight.results import About, known, passed, refused
from k3s_ha_agent.preflight.subject import Subject

NAME = "ports"
FOR = frozenset({Kind.MIGRATE, Kind.JOIN})
ABOUT = About(
    looks_at="who listens on 2379 (clients), 2380 (peers), 2381 (metrics) and 2382 (HTTP), and on 2399 and 2400 where "
    "this version of k3s starts a temporary etcd; for a join also on the API's ports and the kubelet's",
    refuses="one is taken: k3s could not bind it",
    warns="",
    remedy="`ss -ltnp`; stop or move the program named",
    facts="M5, 4.5, Seen 18",
)


def check(subject: Subject) -> CheckResult:
    wanted = needed(known(subject.version))
    if subject.kind is Kind.JOIN:  # k3s does not run yet
        wanted += of_a_server(api_port(subject.configuration))
    listeners = known(subject.listeners)
    taken = {port: listeners[port] for port in wanted if port in listeners}
    if taken:
        who = ", ".join(f"{port} by {_phrase(found[0])}" for port, found in taken.items())
        return refused(
            NAME,
            f"Taken: {who}.",
            f"Ports {', '.join(map(str, wanted))} free.",
            f"ss -ltnp 'sport = :{next(iter(taken))}'; stop or move that program",
        )
    return passed(NAME, f"Nobody listens on {', '.join(map(str, wanted))}.")


def _phrase(listener: Listener) -> str:
    process = (
        f"{listener.name} (process {listener.pid})" if listener.pid is not None else "a process the agent is not shown"
    )
    return f"{process} on {listener.address}"
