"""The address of the other server is one, and not ours."""

from __future__ import annotations

from k3s_ha_agent.model import CheckResult, Kind
from k3s_ha_agent.preflight.results import About, known, passed, refused
from k3s_ha_agent.preflight.subject import Subject

NAME = "target-url"
FOR = frozenset({Kind.JOIN})
ABOUT = About(
    looks_at="the address in the request, and what its host resolves to",
    refuses="it is not like `https://HOST:6443`, the host has no address, or the address is this machine's own",
    warns="",
    remedy="name another server of the cluster, or a load balancer in front of them",
    facts="J13, J14",
)


def check(subject: Subject) -> CheckResult:
    cluster = known(subject.cluster)
    if cluster.url_problem is not None:
        return refused(NAME, cluster.url_problem, "An address like https://10.99.0.11:6443.", ABOUT.remedy)
    own = sorted(set(known(cluster.host_addresses)) & set(known(subject.addresses).local))
    if own:
        return refused(
            NAME,
            f"{cluster.url} is this server itself ({', '.join(own)}).",
            "Another server: this one has no cluster to join.",
            "Name a server of the cluster; k3s kubectl get nodes -o wide there shows their addresses",
        )
    return passed(NAME, f"{cluster.url} is {', '.join(known(cluster.host_addresses))}.")
