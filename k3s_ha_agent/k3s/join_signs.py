"""The lines of a server that cannot join, with their rows of k3s-facts (J1 to J10).

The more telling come first: from 1.23 on nearly all of them stand behind ``etcd cluster join failed:``, before
that behind ``joining etcd cluster:``.
"""

from __future__ import annotations

from k3s_ha_agent.k3s.signs import BadSign

_PORTS = "Open 2379 and 2380 between all servers, both ways, and 6443; k3s-ha-agentctl join --dry-run tries them."

TOO_MANY_LEARNERS = BadSign(
    "too-many-learners",
    "Another server is joining: etcd takes one learner at a time.",
    "Wait until that server votes, or until k3s has removed a dead learner (5 minutes), then join again.",
    only_when_fatal=True,  # J6: since 1.26.5 k3s logs it and tries again
)
UNHEALTHY = BadSign(
    "cluster-unhealthy",
    "etcd takes no new member while one of its members does not answer, or has been there for less than five seconds.",
    "Look at the members (k3s-ha-agentctl members on a server of the cluster), mend or remove the one that is down.",
    only_when_fatal=True,
)
UNREACHABLE = BadSign("peers-unreachable", "The etcd of another server does not answer.", _PORTS, only_when_fatal=True)
OTHER_CLUSTER = BadSign(
    "other-cluster",
    "The CA hash in the token is not that of the server that was asked.",
    "Use the token of server/token of a server of the cluster that is to be joined, and that cluster's address.",
)
WRONG_TOKEN = BadSign(
    "wrong-token",
    "The other server does not accept the token; a release of 2021 says the same when it has no etcd (J1).",
    "Use the token of server/token there; see there with k3s-ha-agentctl status that it is on etcd.",
)

JOIN_SIGNS: tuple[tuple[str, BadSign], ...] = (
    ("too many learner members in cluster", TOO_MANY_LEARNERS),
    ("etcdserver: unhealthy cluster", UNHEALTHY),
    (
        "critical configuration value mismatch",
        BadSign(
            "critical-mismatch",
            "A flag that must be equal on all servers differs from the cluster's (J2).",
            "Compare the flags with those of a running server; k3s-ha-agentctl join --dry-run names the flag.",
        ),
    ),
    (
        "duplicate node name found",
        BadSign(
            "duplicate-node",
            "etcd has a member of this node's name (J4).",
            "kubectl delete node of that name, which removes the member, or use another node-name.",
        ),
    ),
    (
        "Node password rejected",
        BadSign(
            "node-password",
            "The cluster knows this node's name with another password (J5).",
            "kubectl -n kube-system delete secret <node>.node-password.k3s, or use another node-name.",
        ),
    ),
    ("token CA hash does not match the Cluster CA certificate hash", OTHER_CLUSTER),
    ("/v1-k3s/server-bootstrap: 401", WRONG_TOKEN),
    ("/v1-k3s/server-bootstrap: 403", WRONG_TOKEN),
    (
        "/v1-k3s/server-bootstrap: 400",
        BadSign("target-on-sqlite", "The other server has no etcd to join (J1).", "Migrate the other server first."),
    ),
    (
        "hash does not match between",
        BadSign(
            "secrets-encryption-differs",
            "The servers encrypt Secrets with different keys (J3).",
            "k3s secrets-encrypt status on every server; finish the rotation there first.",
            only_when_fatal=True,
        ),
    ),
    (
        "x509: certificate is valid for",
        BadSign(
            "certificate-name",
            "The certificate of the other server does not have the name it was asked by (J9).",
            "Put the name into tls-san of that server and restart it, or ask it by its address.",
            only_when_fatal=True,
        ),
    ),
    (
        "failed to get CA certs",
        BadSign(
            "target-unreachable", "The other server does not answer on its API port.", _PORTS, only_when_fatal=True
        ),
    ),
    ("no route to host", UNREACHABLE),
    ("could not retrieve cluster information from the given URLs", UNREACHABLE),
    (
        "cluster join failed: context deadline exceeded",
        BadSign("join-timed-out", "The other servers' etcd did not answer in time (J7).", _PORTS),
    ),
    (
        "joining etcd cluster: context deadline exceeded",
        BadSign("join-timed-out", "The other servers' etcd did not answer in time (J7).", _PORTS),
    ),
    ("etcd cluster join failed", BadSign("join-failed", "etcd could not be joined.", _PORTS)),
    ("start managed database: joining etcd cluster:", BadSign("join-failed", "etcd could not be joined.", _PORTS)),
)
"""Text of a line and what it means."""
