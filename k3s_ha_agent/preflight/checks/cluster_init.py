"""Nobody but the agent decides whether k3s goes to etcd."""

from __future__ import annotations

from pathlib import Path

from k3s_ha_agent.k3s.configuration import Setting
from k3s_ha_agent.model import CheckResult, Kind
from k3s_ha_agent.preflight.results import About, known, passed, refused
from k3s_ha_agent.preflight.sayings import off, said_by, take_out
from k3s_ha_agent.preflight.subject import Subject

NAME = "cluster-init"
FOR = frozenset({Kind.MIGRATE, Kind.ROLLBACK, Kind.JOIN})
ABOUT = About(
    looks_at="`cluster-init` and `K3S_CLUSTER_INIT` in all six places, our own drop-in left out",
    refuses="it is on anywhere: the next restart would migrate with nobody watching, and a rolled-back server would "
    "migrate again, a joining one begin a cluster of its own; or, unless joining, it is off in a place that is "
    "stronger "
    "than our drop-in",
    warns="",
    remedy="take it out; the agent sets it in its own drop-in",
    facts="R3, R5, M16, J13, Seen 4",
)


def check(subject: Subject) -> CheckResult:
    configuration = known(subject.configuration)
    others = [s for s in configuration.all("cluster-init") if s.source != str(subject.drop_in)]
    if on := [setting for setting in others if not off(setting)]:
        return refused(
            NAME,
            f"Set by somebody else: {said_by(on)}.",
            "cluster-init nowhere: with it this server begins a cluster of its own when it cannot join."
            if subject.kind is Kind.JOIN
            else "cluster-init in the agent's drop-in only: with it set elsewhere k3s migrates at any restart, "
            "and again after a rollback.",
            # No restart: one that comes before the edit is the very thing to be prevented.
            take_out(on, subject.settings.unit, restart=False),
        )
    if subject.kind is not Kind.JOIN and (
        stronger := [setting for setting in others if _stronger(setting, subject.drop_in)]
    ):
        return refused(
            NAME,
            f"Switched off: {said_by(stronger)}, which is stronger than the agent's drop-in.",
            "Nothing stronger than the agent's drop-in: k3s would start on SQLite again.",
            take_out(stronger, subject.settings.unit),
        )
    return passed(NAME, "cluster-init is set by nobody else.")


def _stronger(setting: Setting, drop_in: Path) -> bool:
    """The command line, and drop-ins whose name comes after ours (k3s-facts 4.4)."""
    if setting.source.startswith("command line"):
        return True
    return Path(setting.source).parent == drop_in.parent and Path(setting.source).name > drop_in.name
