"""The token belongs to the cluster that answers."""

from __future__ import annotations

from k3s_ha_agent.model import CheckResult, Kind
from k3s_ha_agent.preflight.results import About, known, passed, refused
from k3s_ha_agent.preflight.subject import Subject

NAME = "cluster-ca"
FOR = frozenset({Kind.JOIN})
ABOUT = About(
    looks_at="the CA hash in the token, and the CA bundle the other server shows",
    refuses="the token is a bare password, which proves no cluster; or the hashes differ. Its password is then sent to "
    "nobody",
    warns="",
    remedy="use the whole text of `server/token` of a server of that cluster",
    facts="J10, 4.1",
)


def check(subject: Subject) -> CheckResult:
    cluster = known(subject.cluster)
    found = known(cluster.ca_hash)
    if not cluster.token_ca_hash:
        return refused(
            NAME,
            "The token is a bare password.",
            "A token with the hash of the cluster's CA (K10…::server:…): the password is sent only to who has that CA.",
            "cat /var/lib/rancher/k3s/server/token on a server of the cluster; use all of it",
        )
    if cluster.token_ca_hash != found:
        return refused(
            NAME,
            f"{cluster.url} has the CA {found[:12]}…, the token is for {cluster.token_ca_hash[:12]}….",
            "The same CA: another cluster answers, or somebody in between.",
            "Compare the address with the cluster the token was taken from; take the token anew from server/token "
            "there",
        )
    return passed(NAME, f"{cluster.url} shows the CA the token is for.")
