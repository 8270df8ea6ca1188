"""Everything the operation writes to can be written to."""

from __future__ import annotations

from k3s_ha_agent.model import CheckResult, Kind
from k3s_ha_agent.preflight.results import About, known, passed, refused
from k3s_ha_agent.preflight.subject import Subject

NAME = "writable"
FOR = frozenset({Kind.MIGRATE, Kind.ROLLBACK, Kind.JOIN})
ABOUT = About(
    looks_at="`server/db`, the quarantine, the state dir, systemd's and k3s's drop-in directories: access(2)",
    refuses="one is on a read-only file system, is immutable, or is kept from the agent by its unit's sandbox",
    warns="",
    remedy="remount it read-write, or add it to `ReadWritePaths=` of `k3s-ha-agent.service`",
    facts="ten facts 9",
)


def check(subject: Subject) -> CheckResult:
    files = known(subject.files)
    if files.unwritable:
        names = ", ".join(str(path) for path in files.unwritable)
        return refused(
            NAME,
            f"The agent cannot write to {names}.",
            "Write access: the gate, our configuration and the way back are files.",
            f"findmnt -T {files.unwritable[0]}; systemctl cat k3s-ha-agent.service | grep ReadWritePaths",
        )
    return passed(NAME, "All directories the operation writes to can be written to.")
