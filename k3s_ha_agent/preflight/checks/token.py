"""The server token is there and belongs to this cluster."""

from __future__ import annotations

from k3s_ha_agent.model import CheckResult, Kind
from k3s_ha_agent.preflight.results import About, known, passed, refused
from k3s_ha_agent.preflight.subject import Subject

NAME = "token"
FOR = frozenset({Kind.MIGRATE, Kind.ROLLBACK})
ABOUT = About(
    looks_at="`server/token`, the tokens in k3s's configuration, and the certificate authority in `tls/server-ca.crt`",
    refuses="`server/token` is missing or no token, or the CA hash in a token is not that of `server-ca.crt`",
    warns="",
    remedy="put `server/token` back from a backup; with the right token configured `systemctl restart k3s` "
    "writes it anew",
    facts="M18, J10",
)


def check(subject: Subject) -> CheckResult:
    server_token = known(subject.server_token)
    tokens = (server_token, *known(subject.configured_tokens))
    ours = known(subject.server_ca_hash)
    for token in tokens:
        if token.ca_hash is not None and token.ca_hash != ours:
            return refused(
                NAME,
                f"{token.source} carries the CA hash {token.ca_hash[:12]}…, {subject.layout.server_ca} has "
                f"{ours[:12]}…",
                "A token of this cluster: its CA hash is that of server-ca.crt.",
                f"Compare {token.source} with a backup; with the right token configured: "
                f"systemctl restart {subject.settings.unit}",
            )
    return passed(NAME, f"{server_token.source} is a token of this cluster's certificate authority.")
