"""The API server of the cluster is ready."""

from __future__ import annotations

from k3s_ha_agent.model import CheckResult, Kind
from k3s_ha_agent.preflight.results import About, known, passed, refused
from k3s_ha_agent.preflight.subject import Subject

NAME = "target-api"
FOR = frozenset({Kind.JOIN})
ABOUT = About(
    looks_at="`/readyz`, `/version` and the Nodes of the API server there, with a client certificate made for the "
    "purpose",
    refuses="it is not ready or does not answer: with most servers down the API hangs rather than fails",
    warns="",
    remedy="mend the cluster first: `k3s kubectl get --raw '/readyz?verbose'` there",
    facts="Seen 11, ten facts 10",
)


def check(subject: Subject) -> CheckResult:
    cluster = known(subject.cluster)
    readiness = known(cluster.api_ready)
    known(cluster.nodes)
    if not readiness:
        return refused(
            NAME,
            f"The API server at {cluster.url} is not ready: {readiness.reason}",
            "A cluster that works: a member is not added to one that does not.",
            "k3s kubectl get --raw '/readyz?verbose' there",
        )
    return passed(NAME, f"The API server at {cluster.url} is ready.")
