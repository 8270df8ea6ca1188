"""Every member of the cluster is well."""

from __future__ import annotations

from k3s_ha_agent.k3s.apiserver import MEMBER_NAME, VOTES
from k3s_ha_agent.model import CheckResult, Kind
from k3s_ha_agent.preflight.results import About, known, passed, refused
from k3s_ha_agent.preflight.subject import Subject

NAME = "members-healthy"
FOR = frozenset({Kind.JOIN})
ABOUT = About(
    looks_at="for each voter its Node: Ready, and the condition EtcdIsVoter where the release has it (2023-11)",
    refuses="a voter has no Node, its Node is not Ready or says it does not vote: etcd takes no new member then, and "
    "one "
    "more voter would raise the number that must be up",
    warns="",
    remedy="mend or remove that server first",
    facts="J6, J11, 4.6",
)


def check(subject: Subject) -> CheckResult:
    cluster = known(subject.cluster)
    nodes = {node.annotations.get(MEMBER_NAME, ""): node for node in known(cluster.nodes)}
    bad = []
    voters = [member for member in known(cluster.members) if not member.is_learner]
    for member in voters:
        node = nodes.get(member.name)
        if node is None:
            bad.append(f"no Node belongs to the member {member.name}")
        elif not node.ready:
            bad.append(f"Node {node.name} is not Ready")
        elif node.conditions.get(VOTES, "True") != "True":
            bad.append(f"Node {node.name} says {VOTES}={node.conditions[VOTES]} ({node.reasons.get(VOTES, '')})")
    if bad:
        return refused(
            NAME,
            f"Of {len(voters)} voters: {'; '.join(bad)}.",
            "Every voter up: adding one while another is down can cost the quorum.",
            "k3s kubectl get nodes; mend that server, or remove it: k3s kubectl delete node NAME",
        )
    return passed(NAME, f"All {len(voters)} voters have a ready Node." if len(voters) > 1 else "The voter is ready.")
