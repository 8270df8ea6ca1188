"""There is room for the copies that make the way back certain, and for etcd."""

from __future__ import annotations

from k3s_ha_agent.model import CheckResult, Kind
from k3s_ha_agent.preflight import sizes
from k3s_ha_agent.preflight.results import About, Missing, known
from k3s_ha_agent.preflight.room import Need, fits
from k3s_ha_agent.preflight.subject import Subject

NAME = "disk"
FOR = frozenset({Kind.MIGRATE})
ABOUT = About(
    looks_at="free bytes on each file system concerned, added up: state dir (pre-image, sealed copy, first snapshot), "
    "`server/db` (etcd and its WAL in segments of 64 MB, k3s's temporary copy of etcd, the sealed copy put back), "
    "systemd's and k3s's drop-in directories",
    refuses="a file system has less free than is needed on it",
    warns="",
    remedy="make room, or put `state_dir` on another file system",
    facts="M13, 4.1 (`etcd-tmp`), 4.5",
)


def check(subject: Subject) -> CheckResult:
    files = known(subject.files)
    places = known(subject.places)
    needs = [
        Need(places.state, 2 * files.sqlite_bytes + sizes.SMALL_FILES, "pre-image and sealed copy"),
        Need(places.systemd, sizes.CONFIG_FILES, "the gate"),
        Need(places.config, sizes.CONFIG_FILES, "our drop-in"),
    ]
    # Without room for the copy there is no summary, and without a summary no estimate of etcd.
    if not (isinstance(subject.kine, Missing) and subject.kine.see == NAME):
        summary = known(subject.kine)
        etcd = sizes.etcd(summary.live_bytes, summary.live_rows)
        backend = sizes.backend(summary.live_bytes, summary.live_rows)
        needs += [
            Need(places.db, 2 * etcd, "etcd and its temporary copy"),
            Need(places.state, backend, "the first snapshot"),
            Need(places.db, files.sqlite_bytes, "the sealed copy put back"),
        ]
    return fits(NAME, needs)
