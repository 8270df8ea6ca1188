"""The token is the one the datastore was made with."""

from __future__ import annotations

from k3s_ha_agent.model import CheckResult, Kind
from k3s_ha_agent.preflight.results import About, known, passed, refused, warned
from k3s_ha_agent.preflight.subject import Subject

NAME = "bootstrap-key"
FOR = frozenset({Kind.MIGRATE})
PREFIX = "/bootstrap/"
ABOUT = About(
    looks_at="`/bootstrap/<hash>` in the copy, and the hash of each token's password: `server/token` and "
    "configured ones",
    refuses="a token's hash is not that of the key, or there are several keys: k3s would stop with “bootstrap "
    "data already "
    "found and encrypted with different token”",
    warns="the database has no such key, so that the token cannot be compared",
    remedy="configure the token the cluster was made with, or none",
    facts="M8",
)


def check(subject: Subject) -> CheckResult:
    summary = known(subject.kine)
    tokens = (known(subject.server_token), *known(subject.configured_tokens))
    keys = [key.removeprefix(PREFIX) for key in summary.bootstrap_keys]
    if not keys:
        return warned(
            NAME,
            "The database has no /bootstrap/ key with which the token could be compared.",
            "A bootstrap key, as k3s writes it at its start.",
            f"systemctl restart {subject.settings.unit}; then k3s-ha-agentctl preflight",
        )
    for token in tokens:
        if keys != [token.short_hash]:
            return refused(
                NAME,
                f"The password in {token.source} has the hash {token.short_hash}, "
                f"the database was made with {' and '.join(keys)}.",
                "One bootstrap key, of this very token: with another one k3s cannot read its bootstrap data.",
                f"Set the token the cluster was made with in {token.source}; then "
                f"systemctl restart {subject.settings.unit}",
            )
    return passed(NAME, f"The database was made with this token (/bootstrap/{keys[0]}).")
