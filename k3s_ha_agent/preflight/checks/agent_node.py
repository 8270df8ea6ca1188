"""This node is a server."""

from __future__ import annotations

from k3s_ha_agent.model import CheckResult, Kind
from k3s_ha_agent.preflight.results import About, known, passed, refused
from k3s_ha_agent.preflight.subject import Subject

NAME = "agent-node"
FOR = frozenset({Kind.MIGRATE, Kind.ROLLBACK, Kind.JOIN})
ABOUT = About(
    looks_at="the command line of the unit: `k3s server` or `k3s agent`",
    refuses="it runs `k3s agent`: an agent has no datastore",
    warns="",
    remedy="run this on the server; `k3s kubectl get nodes -l node-role.kubernetes.io/control-plane` names it",
    facts="J12",
)


def check(subject: Subject) -> CheckResult:
    configuration = known(subject.configuration)
    if configuration.role == "agent":
        return refused(
            NAME,
            f"{subject.settings.unit} runs k3s agent.",
            "A server: an agent has no datastore.",
            "Run this on a server; to make one of this host, uninstall the agent first (k3s-agent-uninstall.sh)"
            if subject.kind is Kind.JOIN
            else "Run this on the server, the host that server: or K3S_URL of this one names",
        )
    return passed(NAME, f"{subject.settings.unit} runs k3s server.")
