"""What is undone can be moved away by a rename."""

from __future__ import annotations

from k3s_ha_agent.model import CheckResult, Kind
from k3s_ha_agent.preflight.results import About, known, passed, refused
from k3s_ha_agent.preflight.subject import Subject

NAME = "same-mount"
FOR = frozenset({Kind.MIGRATE, Kind.ROLLBACK, Kind.JOIN})
ABOUT = About(
    looks_at="the mounts that hold `server/db` and the quarantine (`k3s-ha-agent/quarantine` in k3s's data dir)",
    refuses="they differ: the rename that moves a failed `db/etcd` away would end with EXDEV, and copying it is not "
    "atomic",
    warns="",
    remedy="mount the file system at k3s's data dir instead of below it, or bind the quarantine to the same mount",
    facts="R1, ten facts 1",
)


def check(subject: Subject) -> CheckResult:
    files = known(subject.files)
    if files.db_mount != files.quarantine_mount:
        return refused(
            NAME,
            f"{subject.layout.db} and {subject.layout.quarantine} lie on different mounts "
            f"({files.db_mount} and {files.quarantine_mount}).",
            "One mount for both: a rename across mounts fails with EXDEV, also within one file system.",
            f"findmnt -T {subject.layout.db}; findmnt -T {subject.layout.data_dir}; mount it at "
            f"{subject.layout.data_dir}",
        )
    return passed(NAME, f"{subject.layout.db} and the quarantine lie on one mount.")
