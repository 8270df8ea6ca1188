"""No other token stands in the configuration."""

from __future__ import annotations

from k3s_ha_agent.model import CheckResult, Kind
from k3s_ha_agent.preflight.results import About, known, passed, refused
from k3s_ha_agent.preflight.subject import Subject

NAME = "configured-token"
FOR = frozenset({Kind.JOIN})
ABOUT = About(
    looks_at="`token`, `token-file`, `cluster-secret` and `K3S_TOKEN` in k3s's configuration, and the token of the "
    "request",
    refuses="one is configured that is not the same: k3s would join with that one, or begin a cluster with it",
    warns="",
    remedy="take it out; the agent gives k3s the token in a file of its own",
    facts="J10, M8",
)


def check(subject: Subject) -> CheckResult:
    cluster = known(subject.cluster)
    for token in known(subject.configured_tokens):
        if token.short_hash != cluster.token_short_hash or token.ca_hash not in (None, cluster.token_ca_hash or None):
            return refused(
                NAME,
                f"{token.source} is another token than the one of the request.",
                "The same token everywhere, or none in k3s's configuration.",
                "Take it out there; the agent writes the right one into a file of its own",
            )
    return passed(NAME, "No other token is configured.")
