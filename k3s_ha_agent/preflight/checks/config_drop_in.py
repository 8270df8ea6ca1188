"""Our drop-in for k3s is not there already."""

from __future__ import annotations

from k3s_ha_agent.model import CheckResult, Kind
from k3s_ha_agent.preflight.results import About, known, passed, refused
from k3s_ha_agent.preflight.subject import Subject

NAME = "config-drop-in"
FOR = frozenset({Kind.MIGRATE, Kind.JOIN})
ABOUT = About(
    looks_at="`config.yaml.d/zz-k3s-ha-agent.yaml` beside k3s's configuration",
    refuses="it is there: a remnant of another operation, and k3s would migrate or join unguarded at its next start",
    warns="",
    remedy="`k3s-ha-agentctl operations`; when none is unfinished, remove the file",
    facts="R3, Seen 4",
)


def check(subject: Subject) -> CheckResult:
    files = known(subject.files)
    path = subject.drop_in
    if files.config_drop_in:
        return refused(
            NAME,
            f"{path} is there although nothing was migrated or joined.",
            "Its absence: with it k3s migrates or joins at its next start, with no copy kept and nobody watching.",
            f"k3s-ha-agentctl operations; if none is unfinished: rm {path}",
        )
    return passed(NAME, f"{path} is not there.")
