"""The cluster knows this name with no other password."""

from __future__ import annotations

from k3s_ha_agent.model import CheckResult, Kind
from k3s_ha_agent.preflight.results import About, known, passed, refused
from k3s_ha_agent.preflight.subject import Subject

NAME = "node-password"
FOR = frozenset({Kind.JOIN})
ABOUT = About(
    looks_at="the Secret `<node>.node-password.k3s` in kube-system, and `/etc/rancher/node/password` here",
    refuses="the Secret is there and not of this server's password: k3s ends with “Node password rejected”",
    warns="",
    remedy="delete the Secret (deleting the Node does it, too), or use another `node-name`",
    facts="J5",
)


def check(subject: Subject) -> CheckResult:
    cluster = known(subject.cluster)
    same = known(cluster.node_password)
    secret = f"{subject.node_name}.node-password.k3s"
    if same is None:
        return passed(NAME, f"There is no Secret {secret}.")
    if not same:
        return refused(
            NAME,
            f"The cluster has a Secret {secret}, and /etc/rancher/node/password here is not what it was made of.",
            "No such Secret, or the same password: the name belongs to another machine, or to this one before it was "
            "rebuilt.",
            f"If nothing runs as {subject.node_name} any more: k3s kubectl -n kube-system delete secret {secret}",
        )
    return passed(NAME, f"The Secret {secret} is of this server's own password.")
