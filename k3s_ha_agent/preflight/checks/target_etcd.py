"""The other server runs on embedded etcd."""

from __future__ import annotations

from k3s_ha_agent.model import CheckResult, Kind
from k3s_ha_agent.preflight.results import About, Missing, NotKnown, known, passed, refused
from k3s_ha_agent.preflight.subject import Subject

NAME = "target-etcd"
FOR = frozenset({Kind.JOIN})
ABOUT = About(
    looks_at="the same answer, and the list of etcd's members (`/db/info`)",
    refuses="it has no etcd (400, in releases of 2021 401), does not hand out the cluster's certificates, or lists no "
    "members",
    warns="",
    remedy="migrate that server first: `k3s-ha-agentctl migrate` there",
    facts="J1",
)


def check(subject: Subject) -> CheckResult:
    cluster = known(subject.cluster)
    admission = known(cluster.admission)
    if admission.http_status != 200:
        if admission.http_status in (401, 403) and not admission.password_known:
            raise NotKnown(Missing("The token is not accepted.", "token-accepted"))
        return refused(
            NAME,
            f"{cluster.url} has no etcd that could be joined (HTTP {admission.http_status}).",
            "A server on embedded etcd: one on SQLite stands alone.",
            "k3s-ha-agentctl migrate on that server; then join",
        )
    members = known(cluster.members)
    if not members:
        return refused(NAME, f"{cluster.url} lists no member of etcd.", "At least one member.", ABOUT.remedy)
    return passed(NAME, f"etcd of {len(members)} {'member' if len(members) == 1 else 'members'}.")
