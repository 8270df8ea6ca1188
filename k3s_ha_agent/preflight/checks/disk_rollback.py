"""There is room to put the pre-image back while etcd is still kept."""

from __future__ import annotations

from k3s_ha_agent.model import CheckResult, Kind
from k3s_ha_agent.preflight import sizes
from k3s_ha_agent.preflight.results import About, known
from k3s_ha_agent.preflight.room import Need, fits
from k3s_ha_agent.preflight.subject import Subject

NAME = "disk-rollback"
FOR = frozenset({Kind.ROLLBACK})
ABOUT = About(
    looks_at="free bytes on the file systems of `server/db` (the pre-image put back while etcd is kept in the "
    "quarantine), of the state dir and of systemd's and k3s's drop-in directories",
    refuses="a file system has less free than is needed on it",
    warns="",
    remedy="make room",
    facts="R1, R2",
)


def check(subject: Subject) -> CheckResult:
    places = known(subject.places)
    pre_image = known(subject.pre_image)
    return fits(
        NAME,
        [
            Need(places.db, pre_image.bytes, "the pre-image put back"),
            Need(places.state, sizes.SMALL_FILES, "records"),
            Need(places.systemd, sizes.CONFIG_FILES, "the gate"),
            Need(places.config, sizes.CONFIG_FILES, "k3s's configuration"),
        ],
    )
