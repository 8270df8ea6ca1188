"""No other operation is unfinished."""

from __future__ import annotations

from k3s_ha_agent.model import CheckResult, Kind
from k3s_ha_agent.preflight.results import About, passed, refused
from k3s_ha_agent.preflight.subject import Subject

NAME = "unfinished-operation"
FOR = frozenset({Kind.MIGRATE, Kind.ROLLBACK, Kind.JOIN})
ABOUT = About(
    looks_at="the records of operations",
    refuses="one is not finished",
    warns="",
    remedy="`k3s-ha-agentctl watch`; it ends by itself, or `k3s-ha-agentctl abort`",
    facts="ten facts 3",
)


def check(subject: Subject) -> CheckResult:
    if subject.unfinished is not None:
        return refused(
            NAME,
            f"Operation {subject.unfinished} is not finished.",
            "One operation at a time.",
            f"k3s-ha-agentctl watch {subject.unfinished}",
        )
    return passed(NAME, "No operation is unfinished.")
