"""The clock is right, and no file comes from the future."""

from __future__ import annotations

from k3s_ha_agent.model import CheckResult, Kind
from k3s_ha_agent.preflight.results import About, Missing, known, passed, warned
from k3s_ha_agent.preflight.subject import Subject

NAME = "clock"
FOR = frozenset({Kind.MIGRATE, Kind.JOIN})
ABOUT = About(
    looks_at="whether the clock is synchronised, and mtimes of the files below `tls` and `cred`",
    refuses="",
    warns="the clock is not synchronised, or a file is more than three seconds ahead of it: k3s compares mtimes with "
    "its bootstrap data and stops with “newer than datastore”",
    remedy="`timedatectl set-ntp true`, wait for `timedatectl` to say yes",
    facts="M7",
)


def check(subject: Subject) -> CheckResult:
    files = known(subject.files)
    if files.credentials_in_future:
        return warned(
            NAME,
            f"Newer than the clock says now: {', '.join(files.credentials_in_future)}.",
            "Files that are not from the future: k3s calls them newer than its datastore and stops.",
            "timedatectl; timedatectl set-ntp true",
        )
    if isinstance(subject.clock_synchronised, Missing):
        # Only ever a warning: a clock nobody can ask about is no worse than one that is not synchronised.
        return warned(
            NAME,
            subject.clock_synchronised.reason,
            "A synchronised clock: k3s compares times of files and certificates.",
            "timedatectl status",
        )
    if not subject.clock_synchronised:
        return warned(
            NAME,
            "The clock of this machine is not synchronised.",
            "A synchronised clock: k3s compares times of files and certificates, and servers that join compare "
            "with it.",
            "timedatectl set-ntp true; timedatectl status",
        )
    return passed(NAME, "The clock is synchronised.")
