"""The other server accepts the token."""

from __future__ import annotations

from k3s_ha_agent.model import CheckResult, Kind
from k3s_ha_agent.preflight.results import About, known, passed, refused
from k3s_ha_agent.preflight.subject import Subject

NAME = "token-accepted"
FOR = frozenset({Kind.JOIN})
ABOUT = About(
    looks_at="the answer to the question for the cluster's certificates (`/v1-k3s/server-bootstrap`), asked as "
    "`server`",
    refuses="401 or 403, and the password opens nothing else there either",
    warns="",
    remedy="use `server/token` of a server; an agent token does not do",
    facts="Seen 10, 4.3",
)


def check(subject: Subject) -> CheckResult:
    cluster = known(subject.cluster)
    admission = known(cluster.admission)
    if admission.http_status in (401, 403) and not admission.password_known:
        return refused(
            NAME,
            f"{cluster.url} does not accept the token (HTTP {admission.http_status}).",
            "The server token of that cluster: an agent token, or one from before a rotation, does not do.",
            "cat /var/lib/rancher/k3s/server/token on a server of the cluster",
        )
    return passed(NAME, "The token is accepted.")
