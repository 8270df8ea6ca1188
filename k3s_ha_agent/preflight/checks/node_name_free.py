"""No Node of the cluster has the name of this server."""

from __future__ import annotations

from k3s_ha_agent.model import CheckResult, Kind
from k3s_ha_agent.preflight.results import About, known, passed, refused
from k3s_ha_agent.preflight.subject import Subject

NAME = "node-name-free"
FOR = frozenset({Kind.JOIN})
ABOUT = About(
    looks_at="the name k3s's configuration gives this server, and the Nodes of the cluster",
    refuses="there is a Node of that name, ready or not: another machine, this one as an agent, or what it was before "
    "it was rebuilt; or `with-node-id` is on and the id is not made yet, so that the name is not known",
    warns="",
    remedy="`node-name` of its own here; or `kubectl delete node` when nothing runs under it any more",
    facts="J4, J12",
)


def check(subject: Subject) -> CheckResult:
    cluster = known(subject.cluster)
    name = subject.node_name
    if known(subject.joiner).node_id_missing:
        return refused(
            NAME,
            f"with-node-id is on, and k3s has not made the id yet that comes after {name}.",
            "A name that is known before: by it the server is found again when the join must be taken back.",
            "mkdir -p /etc/rancher/node; openssl rand -hex 4 >/etc/rancher/node/id; or take with-node-id out of "
            f"{subject.settings.k3s_config}",
        )
    taken = next((node for node in known(cluster.nodes) if node.name == name), None)
    if taken is not None:
        state = "Ready" if taken.ready else "not Ready"
        roles = ", ".join(taken.roles) or "no role"
        return refused(
            NAME,
            f"The cluster has a Node {name} at {taken.internal_ip or 'no address'}, {state}, with {roles}.",
            "A name of its own: with a member of that name etcd is not joined, and two machines would share one Node.",
            f"Put another node-name into {subject.settings.k3s_config}; or, if nothing runs as {name} any more: "
            f"k3s kubectl delete node {name}",
        )
    return passed(NAME, f"No Node is called {name}.")
