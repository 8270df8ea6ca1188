"""There is a pre-image to go back to, and it is what it was."""

from __future__ import annotations

from k3s_ha_agent.model import CheckResult, Kind
from k3s_ha_agent.preflight.results import About, known, passed, refused, size
from k3s_ha_agent.preflight.subject import Subject

NAME = "pre-image"
FOR = frozenset({Kind.ROLLBACK})
ABOUT = About(
    looks_at="the pre-image of the migration committed last, file by file against its manifest",
    refuses="there is none, or a file is missing or not what the manifest says",
    warns="",
    remedy="`k3s-ha-agentctl backups`; without a pre-image there is no way back to SQLite",
    facts="R11, R12, ten facts 9",
)


def check(subject: Subject) -> CheckResult:
    pre_image = known(subject.pre_image)
    if pre_image.problem is not None:
        return refused(
            NAME,
            f"The pre-image in {pre_image.directory} cannot be used: {pre_image.problem}",
            "A pre-image whose every file is what its manifest says.",
            f"ls -la {pre_image.directory}; put the files back from a backup of the machine, or stay on etcd",
        )
    return passed(
        NAME, f"Pre-image of migration {pre_image.operation} in {pre_image.directory}, {size(pre_image.bytes)}."
    )
