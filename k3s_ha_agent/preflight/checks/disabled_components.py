"""k3s runs the components with which the result is proven."""

from __future__ import annotations

from k3s_ha_agent.model import CheckResult, Kind
from k3s_ha_agent.preflight.results import About, known, passed, refused
from k3s_ha_agent.preflight.sayings import on_anywhere, said_by, take_out
from k3s_ha_agent.preflight.subject import Subject

NAME = "disabled-components"
FOR = frozenset({Kind.MIGRATE, Kind.JOIN})
FLAGS = ("disable-etcd", "disable-apiserver", "disable-controller-manager", "disable-agent")
ABOUT = About(
    looks_at=f"`{'`, `'.join(FLAGS)}` in all six places",
    refuses="one is on: without etcd nothing is converted or joined, and without the others there is no Node whose "
    "etcd "
    "role could "
    "be seen",
    warns="",
    remedy="take it out",
    facts="Seen 6, 4.6",
)


def check(subject: Subject) -> CheckResult:
    configuration = known(subject.configuration)
    found = [setting for flag in FLAGS for setting in on_anywhere(configuration, flag)]
    if found:
        return refused(
            NAME,
            f"Switched off: {said_by(found)}.",
            "etcd, API server, controllers and agent on: the result is proven with them.",
            take_out(found, subject.settings.unit, restart=subject.kind is not Kind.JOIN),
        )
    return passed(NAME, "etcd, API server, controllers and agent are not switched off.")
