"""The k3s that runs is the k3s that would be started."""

from __future__ import annotations

from k3s_ha_agent.model import CheckResult, Kind
from k3s_ha_agent.preflight.results import About, known, passed, refused
from k3s_ha_agent.preflight.subject import Subject

NAME = "running-version"
FOR = frozenset({Kind.MIGRATE})
ABOUT = About(
    looks_at="the API server's version and `k3s --version` of the binary",
    refuses="they differ: the binary was replaced and not started yet, and an upgrade must not happen inside the "
    "window",
    warns="",
    remedy="`systemctl restart k3s`, see that it works, then migrate",
    facts="R13, R14",
)


def check(subject: Subject) -> CheckResult:
    version = str(known(subject.version))
    running = known(subject.running_version)
    if running != version:
        return refused(
            NAME,
            f"k3s {running} runs, the binary on disk is {version}.",
            "The same version: the restart in the window would be an upgrade as well.",
            f"systemctl restart {subject.settings.unit}; k3s kubectl get nodes; then k3s-ha-agentctl preflight",
        )
    return passed(NAME, f"k3s {version} runs and is on disk.")
