"""There is room for etcd."""

from __future__ import annotations

from k3s_ha_agent.model import CheckResult, Kind
from k3s_ha_agent.preflight.results import About, Missing, known
from k3s_ha_agent.preflight.room import Need, fits
from k3s_ha_agent.preflight.sizes import CONFIG_FILES, GIB, SMALL_FILES, wal
from k3s_ha_agent.preflight.subject import Subject

NAME = "disk-join"
FOR = frozenset({Kind.JOIN})
UNKNOWN_SIZE = GIB
"""Bytes set aside for a cluster that does not say how big its etcd is; half of the default quota."""
ABOUT = About(
    looks_at="the free room of `server/db`, of the state dir and of the drop-in directories, and the size of the "
    "cluster's "
    "etcd where it is shown (else 1 GiB is set aside)",
    refuses="it is not enough for twice etcd's data, its WAL and the agent's own files",
    warns="",
    remedy="make room, or mount a larger disk at `/var/lib/rancher`",
    facts="4.1, 4.5",
)


def check(subject: Subject) -> CheckResult:
    places = known(subject.places)
    etcd = known(subject.cluster).etcd
    data = UNKNOWN_SIZE if isinstance(etcd, Missing) else etcd.db_size
    return fits(
        NAME,
        [
            Need(places.db, 2 * data + wal(data), "etcd"),
            Need(places.state, SMALL_FILES, "records"),
            Need(places.systemd, CONFIG_FILES, "the gate"),
            Need(places.config, CONFIG_FILES, "our configuration"),
        ],
    )
