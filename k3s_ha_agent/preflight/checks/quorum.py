"""How many failures the cluster survives once this server is in."""

from __future__ import annotations

from k3s_ha_agent.model import CheckResult, Kind, availability
from k3s_ha_agent.preflight.results import About, known, passed, warned
from k3s_ha_agent.preflight.subject import Subject

NAME = "quorum"
FOR = frozenset({Kind.JOIN})
ABOUT = About(
    looks_at="the number of voters there will be",
    refuses="",
    warns="it will be even: two servers are less available than one, and four survive no more than three",
    remedy="add one more server soon, and do not restart one of two until then",
    facts="J11",
)


def check(subject: Subject) -> CheckResult:
    voters = sum(1 for member in known(known(subject.cluster).members) if not member.is_learner) + 1
    said = availability(voters)
    if voters % 2 == 0:
        return warned(NAME, f"With this one: {said}", "An odd number of servers, three at best.", ABOUT.remedy)
    return passed(NAME, f"With this one: {said}")
