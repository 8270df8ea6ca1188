"""The pre-image goes back to the version that wrote it."""

from __future__ import annotations

from k3s_ha_agent.model import CheckResult, Kind
from k3s_ha_agent.preflight.results import About, Missing, NotKnown, known, passed, refused
from k3s_ha_agent.preflight.subject import Subject

NAME = "same-version"
FOR = frozenset({Kind.ROLLBACK})
ABOUT = About(
    looks_at="`k3s --version` of the binary, and the version in the manifest of the pre-image",
    refuses="they differ: kine's rows change between versions, and another k3s may fail on them at every second",
    warns="",
    remedy="install the version of the pre-image, or stay on etcd",
    facts="R13",
)


def check(subject: Subject) -> CheckResult:
    version = str(known(subject.version))
    pre_image = known(subject.pre_image)
    if pre_image.problem is not None:
        # A manifest that does not hold says nothing about the version either.
        raise NotKnown(Missing(pre_image.problem, "pre-image"))
    if version != pre_image.k3s_version:
        return refused(
            NAME,
            f"The pre-image was written by k3s {pre_image.k3s_version}, the binary on disk is {version}.",
            "The same version: kine's rows differ between versions.",
            f"Install k3s {pre_image.k3s_version}, or stay on etcd and restore from an etcd snapshot instead",
        )
    return passed(NAME, f"k3s {version} wrote the pre-image and is on disk.")
