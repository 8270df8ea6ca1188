"""Whether what is to be written fits, file system by file system."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from k3s_ha_agent.model import CheckResult
from k3s_ha_agent.preflight.results import passed, refused, size
from k3s_ha_agent.preflight.subject import Place


@dataclasses.dataclass(frozen=True, slots=True)
class Need:
    place: Place
    bytes: int
    what: str


def fits(name: str, needs: Sequence[Need]) -> CheckResult:
    """Needs on one file system are added up, whatever directories they are for."""
    short: list[str] = []
    enough: list[str] = []
    for device in dict.fromkeys(need.place.disk.device for need in needs):
        here = [need for need in needs if need.place.disk.device == device]
        wanted, place = sum(need.bytes for need in here), here[0].place
        if wanted > place.disk.free:
            parts = ", ".join(f"{need.what} {size(need.bytes)}" for need in here)
            short.append(
                f"the file system of {place.path} has {size(place.disk.free)} free of {size(wanted)} ({parts})"
            )
        else:
            enough.append(f"{place.path}: {size(place.disk.free)} free, {size(wanted)} needed")
    if short:
        places = " ".join(dict.fromkeys(str(need.place.path) for need in needs))
        return refused(
            name,
            f"Too little room: {'; '.join(short)}.",
            "Room for the copies that make the way back certain, and for etcd.",
            f"df -h {places}; make room (old snapshots, images, logs), then k3s-ha-agentctl preflight",
        )
    return passed(name, f"{'; '.join(enough)}.")
