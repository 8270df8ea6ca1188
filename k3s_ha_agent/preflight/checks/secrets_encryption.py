"""No rotation of the key that encrypts Secrets is under way."""

from __future__ import annotations

from k3s_ha_agent.model import CheckResult, Kind
from k3s_ha_agent.preflight.results import About, known, passed, warned
from k3s_ha_agent.preflight.subject import Subject

NAME = "secrets-encryption"
FOR = frozenset({Kind.MIGRATE})
AT_REST = frozenset({"start", "reencrypt_finished"})
ABOUT = About(
    looks_at="the stage in `cred/encryption-state.json`, where Secrets are encrypted",
    refuses="",
    warns="a rotation is under way: a restart in the middle of one, and servers that join then, end up with "
    "different keys",
    remedy="`k3s secrets-encrypt status`; bring the rotation to its end first",
    facts="J3",
)


def check(subject: Subject) -> CheckResult:
    files = known(subject.files)
    if not files.encryption:
        return passed(NAME, "Secrets encryption is not in use.")
    if files.encryption_stage is None or files.encryption_stage in AT_REST:
        return passed(NAME, "Secrets are encrypted, and no rotation is under way.")
    return warned(
        NAME,
        f"A rotation of the key that encrypts Secrets is in stage {files.encryption_stage}.",
        "A rotation that is at its end.",
        "k3s secrets-encrypt status; finish it (prepare, rotate, reencrypt), then k3s-ha-agentctl preflight",
    )
