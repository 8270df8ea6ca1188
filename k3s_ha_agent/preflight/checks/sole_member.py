"""No other server depends on this etcd."""

from __future__ import annotations

from k3s_ha_agent.model import CheckResult, Kind
from k3s_ha_agent.preflight.results import About, known, passed, refused
from k3s_ha_agent.preflight.subject import Subject

NAME = "sole-member"
FOR = frozenset({Kind.ROLLBACK})
ABOUT = About(
    looks_at="etcd's member list",
    refuses="there is more than one member, learners counted: the others would be left with a datastore of their own",
    warns="",
    remedy="the others leave first: `k3s-ha-agentctl rollback` on each of them",
    facts="ten facts 9, R15",
)


def check(subject: Subject) -> CheckResult:
    members = known(subject.members)
    names = ", ".join(member.name or "(a member that has not started)" for member in members)
    if len(members) != 1:
        return refused(
            NAME,
            f"etcd has {len(members)} members: {names}.",
            "This server as the only member: the others would go on with the data that is undone here.",
            "Let the other servers leave first, one at a time, then ask again",
        )
    return passed(NAME, f"{names} is etcd's only member.")
