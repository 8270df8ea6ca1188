"""The disk syncs fast enough for etcd."""

from __future__ import annotations

from k3s_ha_agent.durations import format_duration
from k3s_ha_agent.model import CheckResult, Kind
from k3s_ha_agent.preflight.results import About, Missing, known, passed, refused, warned
from k3s_ha_agent.preflight.subject import Subject

NAME = "slow-disk"
FOR = frozenset({Kind.MIGRATE, Kind.JOIN})
ABOUT = About(
    looks_at="the 99th percentile of fsync on the file system of `server/db`, measured with small writes as etcd makes "
    "them",
    refuses="it is above `fsync_refuse` (100 ms), unless the request (of a migration) says `accept_slow_disk`",
    warns="it is above `fsync_warn` (10 ms)",
    remedy="move `/var/lib/rancher` to an SSD; SD cards and eMMC cannot handle the load",
    facts="M12, M11, R11",
)


def check(subject: Subject) -> CheckResult:
    if subject.accept_slow_disk and isinstance(subject.fsync, Missing):
        return warned(NAME, subject.fsync.reason, "A disk on which fsync can be measured.", ABOUT.remedy)
    probe = known(subject.fsync)
    settings = subject.settings
    found = f"99 of 100 fsyncs take up to {format_duration(probe.p99)}, half of them {format_duration(probe.p50)}."
    if probe.p99 > settings.fsync_refuse and not subject.accept_slow_disk:
        return refused(
            NAME,
            found,
            f"Up to {format_duration(settings.fsync_refuse)}: on a slower disk etcd loses its leader and k3s exits.",
            f"Move {settings.data_dir} to a faster disk"
            + ("" if subject.kind is Kind.JOIN else ", or ask again with --accept-slow-disk"),
        )
    if probe.p99 > settings.fsync_warn:
        return warned(
            NAME,
            found,
            f"Up to {format_duration(settings.fsync_warn)} is what etcd wants.",
            f"Move {settings.data_dir} to a faster disk, an SSD at best",
        )
    return passed(NAME, found)
