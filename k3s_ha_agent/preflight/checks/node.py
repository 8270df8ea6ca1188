"""The API server answers and this node is ready."""

from __future__ import annotations

from k3s_ha_agent.model import CheckResult, Kind
from k3s_ha_agent.preflight.results import About, known, passed, refused
from k3s_ha_agent.preflight.subject import Subject

NAME = "node"
FOR = frozenset({Kind.MIGRATE})
ABOUT = About(
    looks_at="`/readyz` of the API server and the Ready condition of this server's Node",
    refuses="either is not so: what does not work before cannot prove that it works after",
    warns="",
    remedy="`k3s kubectl get --raw '/readyz?verbose'`, `k3s kubectl describe node`",
    facts="ten facts 10, 4.6",
)


def check(subject: Subject) -> CheckResult:
    readiness = known(subject.api_ready)
    if not readiness:
        return refused(
            NAME,
            f"The API server is not ready: {readiness.reason}",
            "A ready API server: it proves the result.",
            "k3s kubectl get --raw '/readyz?verbose'",
        )
    node = known(subject.node)
    if not node.ready:
        return refused(
            NAME,
            f"Node {node.name} is not Ready.",
            "A Ready node: it proves the result.",
            f"k3s kubectl describe node {node.name}",
        )
    return passed(NAME, f"The API server is ready, and so is node {node.name}.")
