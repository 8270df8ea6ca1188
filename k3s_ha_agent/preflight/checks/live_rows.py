"""There is something to convert."""

from __future__ import annotations

from k3s_ha_agent.model import CheckResult, Kind
from k3s_ha_agent.preflight.results import About, known, passed, refused, size
from k3s_ha_agent.preflight.subject import Subject

NAME = "live-rows"
FOR = frozenset({Kind.MIGRATE})
ABOUT = About(
    looks_at="the number of live keys under `/registry/` in the copy",
    refuses="there is none: every k3s that ever served has some, so this is not the database k3s uses",
    warns="",
    remedy="`k3s kubectl get namespaces`; compare `data_dir` in `/etc/k3s-ha-agent/config.yaml` with "
    "`--data-dir` of k3s",
    facts="M3, ten facts 5 and 7",
)


def check(subject: Subject) -> CheckResult:
    summary = known(subject.kine)
    if summary.live_rows == 0:
        return refused(
            NAME,
            f"{subject.layout.state_db} has {summary.rows} rows and no live key under /registry/.",
            "At least one live key: an empty database is not the one k3s serves from.",
            f"k3s kubectl get namespaces; systemctl cat {subject.settings.unit} | grep data-dir",
        )
    leases = f", {summary.leased_rows} of them with a lease that k3s does not copy" if summary.leased_rows else ""
    return passed(NAME, f"{summary.live_rows} live keys, {size(summary.live_bytes)}{leases}.")
