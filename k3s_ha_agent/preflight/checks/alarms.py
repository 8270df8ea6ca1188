"""etcd has no alarm raised."""

from __future__ import annotations

from k3s_ha_agent.model import CheckResult, Kind
from k3s_ha_agent.preflight.results import About, Missing, known, passed, refused, warned
from k3s_ha_agent.preflight.subject import Subject

NAME = "alarms"
FOR = frozenset({Kind.JOIN})
ABOUT = About(
    looks_at="etcd's alarms by its JSON gateway, which other servers reach until 2023-09 only",
    refuses="NOSPACE or CORRUPT is raised: etcd takes no writes, or its members differ",
    warns="this release does not show them to other servers, so that they cannot be known from here",
    remedy="`k3s-ha-agentctl members` on a server of the cluster, or `etcdctl alarm list` there",
    facts="M10, Seen 5, 4.3",
)


def check(subject: Subject) -> CheckResult:
    cluster = known(subject.cluster)
    known(cluster.members)
    if isinstance(cluster.etcd, Missing):
        return warned(
            NAME,
            f"Whether etcd has an alarm raised cannot be known from here: {cluster.etcd.reason}",
            "No alarm.",
            "k3s-ha-agentctl members on a server of the cluster, or etcdctl alarm list there",
        )
    if cluster.etcd.alarms:
        return refused(
            NAME,
            f"Raised: {', '.join(sorted(set(cluster.etcd.alarms)))}.",
            "No alarm: with NOSPACE etcd takes no writes, with CORRUPT its members differ.",
            "etcdctl alarm list on a server of the cluster; make room (compact, defrag), then etcdctl alarm disarm",
        )
    return passed(NAME, "No alarm is raised.")
