"""The live data stays clear of etcd's quota."""

from __future__ import annotations

from k3s_ha_agent.model import CheckResult, Kind
from k3s_ha_agent.preflight import sizes
from k3s_ha_agent.preflight.etcd_args import etcd_limit
from k3s_ha_agent.preflight.results import About, known, passed, refused, size
from k3s_ha_agent.preflight.subject import Subject

NAME = "quota"
FOR = frozenset({Kind.MIGRATE})
ABOUT = About(
    looks_at="bytes and number of live keys, and `etcd-arg: quota-backend-bytes=`",
    refuses="etcd's database may get bigger than its quota (2 GiB, or what is configured): twice the live bytes plus "
    "256 bytes per key",
    warns="",
    remedy="`etcd-arg: quota-backend-bytes=8589934592` (8 GiB is the most etcd suggests), or delete what is not needed",
    facts="M10",
)


def check(subject: Subject) -> CheckResult:
    summary = known(subject.kine)
    quota = etcd_limit(known(subject.configuration), "quota-backend-bytes", sizes.DEFAULT_QUOTA)
    if isinstance(quota, str):
        return refused(NAME, quota, "A number of bytes.", "Correct the etcd-arg, restart k3s and ask again.")
    needed = sizes.backend(summary.live_bytes, summary.live_rows)
    if quota < 0:
        return passed(NAME, f"About {size(needed)} at most in etcd; its quota is switched off.")
    allowed = quota or sizes.DEFAULT_QUOTA  # 0 is etcd's word for its default
    if needed > allowed:
        return refused(
            NAME,
            f"{summary.live_rows} live keys with {size(summary.live_bytes)} may need {size(needed)} in etcd.",
            f"At most {size(allowed)}, etcd's quota: past it etcd takes no more writes (NOSPACE).",
            f'Put etcd-arg: ["quota-backend-bytes={8 * sizes.GIB}"] into {subject.settings.k3s_config}, '
            "or delete what is not needed; then k3s-ha-agentctl preflight",
        )
    return passed(NAME, f"About {size(needed)} at most in etcd, of {size(allowed)} allowed.")
