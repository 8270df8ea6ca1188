"""The flags that must be equal on all servers are."""

from __future__ import annotations

from k3s_ha_agent.model import CheckResult, Kind
from k3s_ha_agent.preflight.critical import differences
from k3s_ha_agent.preflight.results import About, known, passed, refused
from k3s_ha_agent.preflight.subject import Subject

NAME = "critical-flags"
FOR = frozenset({Kind.JOIN})
ABOUT = About(
    looks_at="`/v1-k3s/config` there, and k3s's configuration in all six places here",
    refuses="one differs: k3s 1.22.2 takes such a server without a word, later ones end with “critical configuration "
    "value mismatch”",
    warns="",
    remedy="make them equal here; `k3s.io/node-args` of a server's Node shows what it was given",
    facts="J2, 4.5, Seen 10",
)


def check(subject: Subject) -> CheckResult:
    cluster = known(subject.cluster)
    found = differences(known(subject.configuration), known(cluster.critical))
    if found:
        return refused(
            NAME,
            f"Not equal: {'; '.join(found)}.",
            f"The same as on {cluster.url}.",
            f"Set them in {subject.settings.k3s_config} as they are there",
        )
    return passed(NAME, f"Equal to {cluster.url} in {len(known(cluster.critical))} points.")
