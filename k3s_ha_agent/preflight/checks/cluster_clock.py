"""The clocks here and there say the same."""

from __future__ import annotations

from k3s_ha_agent.model import CheckResult, Kind
from k3s_ha_agent.preflight.results import About, known, passed, refused, warned
from k3s_ha_agent.preflight.subject import Subject

NAME = "cluster-clock"
FOR = frozenset({Kind.JOIN})
WARN, REFUSE = 3.0, 30.0
"""Seconds. k3s tolerates three between files and datastore (M7, systemTimeSkew); beyond half a minute leases and
certificates made a moment ago are not valid on the other side."""
ABOUT = About(
    looks_at="the header `Date` of the other server's answer, right to about a second",
    refuses=f"more than {REFUSE:.0f} seconds lie between",
    warns=f"more than {WARN:.0f} seconds lie between, or the other server does not say the time",
    remedy="`timedatectl set-ntp true` on the server whose clock is wrong",
    facts="M7",
)


def check(subject: Subject) -> CheckResult:
    offset = known(known(subject.cluster).clock_offset)
    needs = "The same time on all servers: k3s compares times of files and certificates."
    if offset is None:
        return warned(NAME, "The other server does not say what time it is.", needs, "Compare date -u here and there")
    found = f"The other server's clock is {abs(offset):.0f} seconds {'ahead of' if offset > 0 else 'behind'} ours."
    if abs(offset) > REFUSE:
        return refused(NAME, found, needs, ABOUT.remedy)
    if abs(offset) > WARN:
        return warned(NAME, found, needs, ABOUT.remedy)
    return passed(NAME, "The clocks here and there say the same.")
