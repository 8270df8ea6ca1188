"""No gate and no rescue of an operation that is not there."""

from __future__ import annotations

from k3s_ha_agent.model import CheckResult, Kind
from k3s_ha_agent.preflight.results import About, known, passed, refused
from k3s_ha_agent.preflight.subject import Subject

NAME = "gate"
FOR = frozenset({Kind.MIGRATE, Kind.ROLLBACK, Kind.JOIN})
ABOUT = About(
    looks_at="the gate's drop-in for the k3s unit, and the rescue's timer",
    refuses="one of them is there: an operation that nobody remembers was not ended",
    warns="",
    remedy="`k3s-ha-agentctl operations`; when none is unfinished, remove the drop-in and stop the timer",
    facts="ten facts 10",
)


def check(subject: Subject) -> CheckResult:
    files = known(subject.files)
    armed = known(subject.rescue_armed)
    found = [f"the gate {subject.settings.gate} is closed"] if files.gate else []
    found += ["the rescue's timer runs"] if armed else []
    if found:
        return refused(
            NAME,
            f"From another operation: {' and '.join(found)}.",
            "Neither: each belongs to one operation, and another one must not take it over.",
            f"k3s-ha-agentctl operations; if none is unfinished: rm -f {subject.settings.gate}; systemctl "
            "daemon-reload; "
            "systemctl stop k3s-ha-agent-rescue.timer",
        )
    return passed(NAME, "No gate is closed and no rescue armed.")
