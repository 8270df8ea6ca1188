"""No rotation of the key that encrypts Secrets is under way in the cluster."""

from __future__ import annotations

from k3s_ha_agent.model import CheckResult, Kind
from k3s_ha_agent.preflight.results import About, known, passed, refused, warned
from k3s_ha_agent.preflight.subject import Subject

NAME = "cluster-encryption"
FOR = frozenset({Kind.JOIN})
AT_REST = frozenset({"", "start", "reencrypt_finished"})
ABOUT = About(
    looks_at="`/v1-k3s/encrypt/status` there, where Secrets are encrypted",
    refuses="a rotation is under way, or the servers do not agree on the keys: this one would end up with another key",
    warns="Secrets are encrypted and the release does not say whether a rotation is under way",
    remedy="`k3s secrets-encrypt status` there; bring the rotation to its end first",
    facts="J3",
)


def check(subject: Subject) -> CheckResult:
    cluster = known(subject.cluster)
    encrypted = bool(known(cluster.critical).get("EncryptSecrets"))
    state = known(cluster.encryption)
    if state is None:
        if encrypted:
            return warned(
                NAME,
                "Secrets are encrypted; this release does not say whether a rotation of the key is under way.",
                "No rotation under way.",
                "Ask whoever rotates keys in this cluster to wait",
            )
        return passed(NAME, "Secrets encryption is not in use.")
    if not (encrypted or state.enabled):
        return passed(NAME, "Secrets encryption is not in use.")
    if state.stage not in AT_REST or not state.hashes_match:
        found = f"stage {state.stage}" if state.stage not in AT_REST else "servers with different keys"
        return refused(
            NAME,
            f"Secrets encryption of the cluster: {found}.",
            "A rotation that is at its end, and the same keys on all servers.",
            "k3s secrets-encrypt status there; finish it (prepare, rotate, reencrypt, restarts between)",
        )
    return passed(NAME, "Secrets are encrypted, and no rotation is under way.")
