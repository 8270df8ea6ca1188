"""The certificates, keys and passwords that make this cluster this cluster are there."""

from __future__ import annotations

from k3s_ha_agent.model import CheckResult, Kind
from k3s_ha_agent.preflight.results import About, known, passed, refused
from k3s_ha_agent.preflight.subject import Subject

NAME = "credentials"
FOR = frozenset({Kind.MIGRATE, Kind.ROLLBACK})
ABOUT = About(
    looks_at="the files below `server/tls` and `server/cred` that k3s keeps in its bootstrap data, and the client "
    "certificates with which the result is proven",
    refuses="one is missing or empty: k3s saves them from disk into the new etcd, and makes new ones that agents "
    "refuse",
    warns="",
    remedy="`systemctl restart k3s` writes them anew from the datastore; look again before migrating",
    facts="M18, M7, R10",
)


def check(subject: Subject) -> CheckResult:
    files = known(subject.files)
    if files.credentials_missing:
        return refused(
            NAME,
            f"Missing or empty below {subject.layout.server}: {', '.join(files.credentials_missing)}.",
            "All files of k3s's bootstrap data: the new etcd gets them from disk, not from SQLite.",
            f"systemctl restart {subject.settings.unit}; then k3s-ha-agentctl preflight",
        )
    return passed(NAME, f"All certificates, keys and passwords are there below {subject.layout.server}.")
