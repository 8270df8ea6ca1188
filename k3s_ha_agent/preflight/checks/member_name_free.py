"""No etcd member has the name of this server."""

from __future__ import annotations

from k3s_ha_agent.model import CheckResult, Kind
from k3s_ha_agent.preflight.results import About, known, passed, refused
from k3s_ha_agent.preflight.subject import Subject

NAME = "member-name-free"
FOR = frozenset({Kind.JOIN})
ABOUT = About(
    looks_at="the members' names, which are the node's name and eight hex digits",
    refuses="one is of this node: k3s ends with “duplicate node name found, please use a unique name for this node”",
    warns="",
    remedy="`kubectl delete node` removes the member with the Node; without a Node remove it with `etcdctl member "
    "remove`",
    facts="J4",
)


def check(subject: Subject) -> CheckResult:
    cluster = known(subject.cluster)
    name = subject.node_name
    found = [member for member in known(cluster.members) if member.name.rpartition("-")[0] == name]
    if found:
        names = ", ".join(f"{member.name} (id {member.id:x})" for member in found)
        return refused(
            NAME,
            f"etcd has a member of this node's name: {names}.",
            "None: k3s does not join beside a member of its own name.",
            f"k3s kubectl delete node {name}, which removes the member; without such a Node: "
            f"etcdctl member remove {found[0].id:x} on a server of the cluster",
        )
    return passed(NAME, f"No member is called {name}-….")
