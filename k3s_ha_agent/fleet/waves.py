"""Which clusters go when: canaries first, then so many at once, and no further wave after so many failures."""

from __future__ import annotations

import asyncio
import dataclasses
import traceback
from collections.abc import Awaitable, Callable, Sequence

from k3s_ha_agent.fleet.configuration import Cluster, Waves
from k3s_ha_agent.fleet.outcome import FAILURES, Ending, Result
from k3s_ha_agent.fleet.report import Report, Row

Drive = Callable[[Cluster], Awaitable[Ending]]
Order = Callable[[Sequence[Cluster]], Awaitable[Sequence[Cluster]]]


@dataclasses.dataclass(frozen=True, slots=True)
class Wave:
    name: str
    clusters: tuple[Cluster, ...]
    canary: bool = False


def split(clusters: Sequence[Cluster], waves: Waves) -> tuple[Wave, ...]:
    """The waves, in their order; the same for every run over the same file."""
    canaries = tuple(c for name in waves.canary for c in clusters if c.name == name)
    others = [c for c in clusters if c.name not in waves.canary]
    found = [Wave("canary", canaries, canary=True)] if canaries else []
    for number, begin in enumerate(range(0, len(others), waves.size), 1):
        found.append(Wave(f"wave {number}", tuple(others[begin : begin + waves.size])))
    return tuple(found)


async def run(waves: Sequence[Wave], rules: Waves, order: Order, drive: Drive, report: Report) -> list[Ending]:
    """Drive every cluster, wave by wave. A cluster that fails stops no other of its wave.

    ``order``: the clusters with those first that a killed run left in the middle, and in this order
    those of a wave are begun; else they would go on by themselves beside as many others as are allowed.
    """
    for wave in waves:
        for cluster in wave.clusters:
            report.rows[cluster.name] = Row(cluster.name, wave.name, len(cluster.servers))
    ordered = await order([cluster for wave in waves for cluster in wave.clusters])
    place = {cluster.name: number for number, cluster in enumerate(ordered)}
    endings: list[Ending] = []
    stopped: str | None = None
    for wave in waves:
        if stopped is not None:
            for cluster in wave.clusters:
                endings.append(Ending(cluster.name, Result.NOT_BEGUN, stopped))
                report.rows[cluster.name].ending = endings[-1]
            continue
        names = [cluster.name for cluster in wave.clusters]
        report.heading = f"{wave.name} of {len(waves)}" if not wave.canary else wave.name
        report.event("wave-began", f"{wave.name}: {len(names)} clusters", wave=wave.name, clusters=names)
        free = asyncio.Semaphore(rules.at_once)
        async with asyncio.TaskGroup() as group:
            turns = sorted(wave.clusters, key=lambda cluster: place[cluster.name])
            tasks = [group.create_task(_one(cluster, free, drive, report)) for cluster in turns]
        endings += [task.result() for task in tasks]
        stopped = _stop_because(wave, endings, rules)
        report.event("wave-ended", f"{wave.name} ended: {counts(endings[-len(names) :])}", wave=wave.name)
        if stopped is not None and wave is not waves[-1]:
            report.event("stopped", f"No further wave: {stopped}.", reason=stopped)
    return endings


async def _one(cluster: Cluster, free: asyncio.Semaphore, drive: Drive, report: Report) -> Ending:
    async with free:
        report.begin(cluster.name)
        try:
            ending = await drive(cluster)
        except Exception as error:  # noqa: BLE001 - a bug must not end the others of the wave; it is told in full
            what = "".join(traceback.format_exception(error))
            report.event("bug", f"met an unexpected error; this is a bug: {error!r}", cluster=cluster.name, trace=what)
            ending = Ending(cluster.name, Result.FAILED, f"a bug: {error!r}", "Report it, with the log (--log).")
        report.end(ending)
        return ending


def _stop_because(wave: Wave, endings: Sequence[Ending], rules: Waves) -> str | None:
    """Why no further wave may begin; None when it may."""
    if wave.canary:
        not_done = [e.cluster for e in endings if e.result is not Result.DONE]
        if not_done:
            return f"not every canary is done: {', '.join(not_done)}"
    failed = [e.cluster for e in endings if e.result in FAILURES]
    if len(failed) >= rules.stop_after_failures:
        return f"{len(failed)} failed, the limit is {rules.stop_after_failures}"
    return None


def counts(endings: Sequence[Ending]) -> str:
    """How many ended how, in words."""
    number = {result: sum(1 for e in endings if e.result is result) for result in Result}
    return ", ".join(f"{count} {result.value.replace('_', ' ')}" for result, count in number.items() if count)
