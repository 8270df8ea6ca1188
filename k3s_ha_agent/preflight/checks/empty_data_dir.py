"""No k3s server has run here."""

from __future__ import annotations

from k3s_ha_agent.model import CheckResult, Kind
from k3s_ha_agent.preflight.results import About, known, passed, refused
from k3s_ha_agent.preflight.subject import Subject

NAME = "empty-data-dir"
FOR = frozenset({Kind.JOIN})
ABOUT = About(
    looks_at="what lies in `<data-dir>/server`; `manifests` and `static` may",
    refuses="there is a database, a token, certificates or credentials: a stand-alone server's data would be orphaned "
    "and "
    "its certificates conflict with the cluster's",
    warns="",
    remedy="move `server` away, when nothing in it is needed any more",
    facts="J16, M6",
)


def check(subject: Subject) -> CheckResult:
    found = known(subject.joiner).server_entries
    server, unit = subject.layout.server, subject.settings.unit
    if found:
        return refused(
            NAME,
            f"{server} holds {', '.join(found)}.",
            "An empty one: this server gets the cluster's data, certificates and token.",
            f"If nothing in it is needed any more: systemctl stop {unit}; mv {server} {server}.old",
        )
    return passed(NAME, f"{server} holds nothing of another k3s.")
