"""The other server answers on its API port."""

from __future__ import annotations

from k3s_ha_agent.model import CheckResult, Kind
from k3s_ha_agent.preflight.results import About, known, passed
from k3s_ha_agent.preflight.subject import Subject

NAME = "target-answers"
FOR = frozenset({Kind.JOIN})
ABOUT = About(
    looks_at="`/cacerts` of the address in the request, asked from here without a proxy",
    refuses="there is no answer in time",
    warns="",
    remedy="start k3s there, open its port 6443 to this server",
    facts="J7, 4.3",
)


def check(subject: Subject) -> CheckResult:
    cluster = known(subject.cluster)
    known(cluster.ca_hash)
    return passed(NAME, f"{cluster.url} answers.")
