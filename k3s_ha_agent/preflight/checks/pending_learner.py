"""No other server is joining."""

from __future__ import annotations

from k3s_ha_agent.model import CheckResult, Kind
from k3s_ha_agent.preflight.results import About, known, passed, refused
from k3s_ha_agent.preflight.subject import Subject

NAME = "pending-learner"
FOR = frozenset({Kind.JOIN})
ABOUT = About(
    looks_at="learners among etcd's members",
    refuses="there is one: etcd takes one at a time, and a learner that died blocks every join until k3s removes it",
    warns="",
    remedy='wait (5 minutes at most for a dead one), or ask with `"on_conflict": "wait"`',
    facts="J6, 4.5",
)


def check(subject: Subject) -> CheckResult:
    members = known(known(subject.cluster).members)
    learners = [member for member in members if member.is_learner]
    if learners:
        names = ", ".join(m.name or f"{' '.join(m.peer_urls)} (not started yet)" for m in learners)
        return refused(
            NAME,
            f"A server is joining: {names} is a learner.",
            "No learner: etcd takes one at a time.",
            'Wait until it votes; a dead one is removed by k3s after 5 minutes. Or ask with {"on_conflict": "wait"}',
        )
    return passed(NAME, "No member is a learner.")
