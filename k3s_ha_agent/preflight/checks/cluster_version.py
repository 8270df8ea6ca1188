"""All servers run the same k3s, and so will this one."""

from __future__ import annotations

from k3s_ha_agent.model import CheckResult, Kind
from k3s_ha_agent.preflight.outside import SERVER_ROLES
from k3s_ha_agent.preflight.results import About, known, passed, refused
from k3s_ha_agent.preflight.subject import Subject

NAME = "cluster-version"
FOR = frozenset({Kind.JOIN})
ABOUT = About(
    looks_at="`k3s --version` here, `/version` of the API server there, and the version every server's Node says",
    refuses="they are not all the same: bootstrap data and critical flags differ between releases",
    warns="",
    remedy="install the cluster's version here, or upgrade the cluster first",
    facts="J15",
)


def check(subject: Subject) -> CheckResult:
    cluster = known(subject.cluster)
    ours = str(known(subject.version))
    theirs = {cluster.url: known(cluster.version)}
    for node in known(cluster.nodes):
        if SERVER_ROLES & set(node.roles) and node.kubelet_version:
            theirs[node.name] = node.kubelet_version
    others = [f"{name} runs {version}" for name, version in theirs.items() if version != ours]
    if others:
        return refused(
            NAME,
            f"k3s here is {ours}; {', '.join(others)}.",
            "One version on all servers.",
            f"Install k3s {theirs[cluster.url]} here (INSTALL_K3S_VERSION), or bring the servers named to one version",
        )
    return passed(NAME, f"All servers run {ours}, as installed here.")
