"""The datastore's files are what they look like: a rename and an inode must mean something."""

from __future__ import annotations

from k3s_ha_agent.model import CheckResult, Kind
from k3s_ha_agent.preflight.results import About, known, passed, refused
from k3s_ha_agent.preflight.subject import Subject

NAME = "links"
FOR = frozenset({Kind.MIGRATE, Kind.ROLLBACK})
ABOUT = About(
    looks_at="whether `db/state.db*` are regular files and `db/etcd` a directory, none a link or a mount point",
    refuses="one is not: k3s would rename the link and not the data, and the proof by inode would be void",
    warns="",
    remedy="stop k3s, put the real file or directory there, start k3s",
    facts="ten facts 4",
)


def check(subject: Subject) -> CheckResult:
    files = known(subject.files)
    if files.surprises:
        return refused(
            NAME,
            " ".join(files.surprises),
            "Regular files and a real directory, so that a rename moves the data and keeps its inode.",
            f"systemctl stop {subject.settings.unit}; ls -la {subject.layout.db}; put the real files there; "
            f"systemctl start {subject.settings.unit}",
        )
    return passed(NAME, "No link or mount point among the files of the datastore.")
