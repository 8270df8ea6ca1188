"""k3s is not told to join another server."""

from __future__ import annotations

from k3s_ha_agent.model import CheckResult, Kind
from k3s_ha_agent.preflight.results import About, known, passed, refused
from k3s_ha_agent.preflight.sayings import said_by, set_anywhere, take_out
from k3s_ha_agent.preflight.subject import Subject

NAME = "server-url"
FOR = frozenset({Kind.MIGRATE, Kind.ROLLBACK, Kind.JOIN})
ABOUT = About(
    looks_at="`server` and `K3S_URL` in all six places",
    refuses="it is set anywhere: without an etcd of its own k3s joins that server, and the SQLite database here is "
    "orphaned and never copied; for a join: an undone one would be begun again at any start",
    warns="",
    remedy="take it out",
    facts="M6, R8",
)


def check(subject: Subject) -> CheckResult:
    found = set_anywhere(known(subject.configuration), "server")
    if found:
        return refused(
            NAME,
            f"k3s is told to join another server: {said_by(found)}.",
            "No server: and no K3S_URL: the agent writes it into its own drop-in, and takes it back when the join "
            "fails."
            if subject.kind is Kind.JOIN
            else "No server: and no K3S_URL: with it k3s joins that cluster and leaves its own data behind.",
            take_out(found, subject.settings.unit, restart=subject.kind is not Kind.JOIN),
        )
    return passed(NAME, "Neither server: nor K3S_URL is set.")
