"""No k3s agent runs here or has left its state."""

from __future__ import annotations

from k3s_ha_agent.model import CheckResult, Kind
from k3s_ha_agent.preflight.results import About, known, passed, refused, warned
from k3s_ha_agent.preflight.subject import Subject

NAME = "agent-state"
FOR = frozenset({Kind.JOIN})
ABOUT = About(
    looks_at="whether a unit `k3s-agent.service` exists, and certificates and learned servers in `<data-dir>/agent`",
    refuses="the unit exists: agent and server would share kubelet, password and containers",
    warns="only the state is there, as an undone join leaves it, too: k3s writes it anew",
    remedy="`k3s-agent-uninstall.sh`, delete the Node and its password Secret, then join",
    facts="J12, J14",
)


def check(subject: Subject) -> CheckResult:
    joiner = known(subject.joiner)
    agent = subject.layout.data_dir / "agent"
    if joiner.agent_unit:
        return refused(
            NAME,
            "This machine has a unit k3s-agent.service.",
            "No agent: a server brings its own.",
            f"k3s-agent-uninstall.sh; on a server: k3s kubectl delete node {subject.node_name}",
        )
    if joiner.agent_entries:
        return warned(
            NAME,
            f"{agent} holds {', '.join(joiner.agent_entries)} of an earlier k3s.",
            "Nothing of another cluster there: learned addresses may lead to it.",
            f"If no containers of it run any more (k3s-killall.sh): mv {agent} {agent}.old",
        )
    return passed(NAME, "There is no agent here and none has left its state.")
