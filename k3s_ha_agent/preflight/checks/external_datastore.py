"""k3s is not told to use an external datastore."""

from __future__ import annotations

from k3s_ha_agent.model import CheckResult, Kind
from k3s_ha_agent.preflight.results import About, known, passed, refused
from k3s_ha_agent.preflight.sayings import said_by, set_anywhere, take_out
from k3s_ha_agent.preflight.subject import Subject

NAME = "external-datastore"
FOR = frozenset({Kind.MIGRATE, Kind.ROLLBACK, Kind.JOIN})
ABOUT = About(
    looks_at="`datastore-endpoint` and `K3S_DATASTORE_ENDPOINT` in all six places",
    refuses="it is set anywhere: it wins over `cluster-init`, nothing is converted, and the cluster seems empty",
    warns="",
    remedy="take it out; a cluster on an external datastore cannot be converted by this agent",
    facts="M4",
)


def check(subject: Subject) -> CheckResult:
    found = set_anywhere(known(subject.configuration), "datastore-endpoint")
    if found:
        edits = take_out(found, subject.settings.unit, restart=subject.kind is not Kind.JOIN)
        return refused(
            NAME,
            f"An external datastore is configured: {said_by(found)}.",
            "No datastore-endpoint anywhere: it wins over cluster-init and server.",
            f"If this cluster lives in that datastore it cannot be converted. {edits}",
        )
    return passed(NAME, "No datastore-endpoint is set.")
