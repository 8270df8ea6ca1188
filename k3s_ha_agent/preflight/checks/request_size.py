"""Every value fits into one request to etcd."""

from __future__ import annotations

from k3s_ha_agent.model import CheckResult, Kind
from k3s_ha_agent.preflight import sizes
from k3s_ha_agent.preflight.etcd_args import etcd_limit
from k3s_ha_agent.preflight.results import About, known, passed, refused, size
from k3s_ha_agent.preflight.subject import Subject

NAME = "request-size"
FOR = frozenset({Kind.MIGRATE})
ABOUT = About(
    looks_at="name and value of the biggest live key, and `etcd-arg: max-request-bytes=`",
    refuses="they do not fit into one request: 1.5 MiB less 4 KiB, or what is configured, but never above the 2 MiB "
    "that k3s's own client sends",
    warns="",
    remedy="delete or split the object; below 2 MiB `etcd-arg: max-request-bytes=2097152` helps too",
    facts="M9",
)


def check(subject: Subject) -> CheckResult:
    summary = known(subject.kine)
    limit = etcd_limit(known(subject.configuration), "max-request-bytes", sizes.DEFAULT_MAX_REQUEST)
    if isinstance(limit, str):
        return refused(NAME, limit, "A number of bytes.", "Correct the etcd-arg, restart k3s and ask again.")
    allowed = min(limit, sizes.CLIENT_SEND_LIMIT) - sizes.REQUEST_OVERHEAD
    found = f"The biggest live key, {summary.biggest_key}, has {size(summary.biggest_bytes)}"
    if summary.biggest_bytes > allowed:
        fits = summary.biggest_bytes <= sizes.CLIENT_SEND_LIMIT - sizes.REQUEST_OVERHEAD
        other = (
            f', or put etcd-arg: ["max-request-bytes={sizes.CLIENT_SEND_LIMIT}"] into {subject.settings.k3s_config}'
            if fits
            else ""
        )
        return refused(
            NAME,
            f"{found}.",
            f"At most {allowed} bytes ({size(allowed)}): etcd refuses a bigger request and the copy stops there.",
            f"Delete or split the object{other}; then k3s-ha-agentctl preflight",
        )
    return passed(NAME, f"{found}; {size(allowed)} fit.")
