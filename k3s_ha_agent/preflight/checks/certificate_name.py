"""The other server's certificate has the name it is asked by."""

from __future__ import annotations

from k3s_ha_agent.model import CheckResult, Kind
from k3s_ha_agent.preflight.results import About, known, passed, refused
from k3s_ha_agent.preflight.subject import Subject

NAME = "certificate-name"
FOR = frozenset({Kind.JOIN})
ABOUT = About(
    looks_at="the certificate of the other server, for the host in the request, by the CA of the token",
    refuses="it is not valid for that name or now: k3s would end with an x509 error. Common behind a load balancer",
    warns="",
    remedy="put the name into `tls-san` of every server of the cluster and restart k3s there, or use an address that "
    "is in the certificate",
    facts="J9",
)


def check(subject: Subject) -> CheckResult:
    cluster = known(subject.cluster)
    problem = known(cluster.certificate_problem)
    if problem is not None:
        return refused(
            NAME,
            problem,
            f"A certificate of the cluster's CA for {cluster.host}.",
            f"On each server of the cluster: put tls-san: {cluster.host} into /etc/rancher/k3s/config.yaml; "
            "systemctl restart k3s; or ask with an address that is in the certificate",
        )
    return passed(NAME, f"The certificate is for {cluster.host}.")
