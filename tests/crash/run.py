"""Run the crash matrix and print its table.

    python -m tests.crash.run [--share N] [--records N] [--second-lives N] [--way NAME]… [--afterwards WHAT]…
                              [--no-relay]

``--share N``: every N-th chosen point; ``--records N``: every N-th durable write counts as a point (0: none), acts
always do; ``--second-lives N``: every N-th death is followed by another one in the resumption.
Exit status 1 when a promise was broken, or fewer interruptions hit than were planned.
"""

from __future__ import annotations

import argparse
import collections
import concurrent.futures
import dataclasses
import os
import random
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence

from tests.crash.below import at_call, chosen, fail, failing, learn_calls
from tests.crash.matrix import AFTERWARDS, Death, Result, Station, at_point, choose, learn, relay, station, walk
from tests.crash.ways import WAYS, Way


@dataclasses.dataclass(frozen=True, slots=True)
class Scope:
    """How much of the matrix."""

    ways: Sequence[Way] = WAYS
    afterwards: Sequence[str] = AFTERWARDS
    share: int = 1
    records: int = 1
    second_lives: int = 3
    relays: bool = True


@dataclasses.dataclass
class Report:
    planned: list[tuple[str, str, str]] = dataclasses.field(default_factory=list)
    """(way, afterwards, point)"""
    results: list[Result] = dataclasses.field(default_factory=list)
    broken: list[str] = dataclasses.field(default_factory=list)
    seconds: float = 0.0

    @property
    def hit(self) -> int:
        return sum(r.hit for r in self.results)

    @property
    def good(self) -> bool:
        return not self.broken and self.hit == len(self.planned) and bool(self.planned)


def workers() -> int:
    return max(1, min(4, os.cpu_count() or 1))


def run(scope: Scope, say: Callable[[str], None] = print) -> Report:
    """Learn the ways, then walk them; in ``workers()`` threads, each with a node of its own."""
    began, report = time.monotonic(), Report()
    points = dict(do_all(report, [(w, _learner(w)) for w in scope.ways]))
    if report.broken:
        return report
    jobs: list[tuple[Way, Callable[[Station], object]]] = []
    for way in scope.ways:
        acts = {p for p in points[way.name] if not p.endswith("record")}
        if scope.relays:
            jobs.append((way, lambda place, way=way, acts=acts: relay(place, way, acts)))  # type: ignore[misc]
            report.planned += [(way.name, "relay", point) for point in acts]
        deaths = _deaths(way, points[way.name], scope)
        jobs += [(way, lambda place, death=death: walk(place, death)) for death in deaths]  # type: ignore[misc]
        report.planned += [(d.way.name, d.afterwards, d.point) for d in deaths]
        say(f"{way.name}: {len(points[way.name])} points; {len(deaths)} walks to die on.")
    for result in do_all(report, jobs, say):
        report.results += result if isinstance(result, list) else [result]
    report.seconds = time.monotonic() - began
    return report


def run_below(
    ways: Sequence[Way], *, errors: bool, share: int, offset: int = 0, say: Callable[[str], None] = print
) -> Report:
    """Below the process: every ``share``-th chosen system call, from the ``offset``-th on, kills or fails."""
    began, report = time.monotonic(), Report()
    calls = dict(do_all(report, [(w, lambda place, w=w: (w.name, learn_calls(place, w))) for w in ways]))  # type: ignore[misc]
    jobs: list[tuple[Way, Callable[[Station], object]]] = []
    for way in ways if not report.broken else ():
        places = chosen(calls[way.name])[offset::share]
        say(f"{way.name}: {len(calls[way.name])} calls; {len(places)} to {'fail' if errors else 'die'} at.")
        for index, where in enumerate(places):
            lasting = errors and index % 2 == 1
            then = (failing(where, lasting).error + (" lasting" if lasting else "")) if errors else "agent"
            if errors:
                job = lambda place, way=way, where=where, lasting=lasting: _until_hit(  # noqa: E731
                    lambda: fail(place, way, where, lasting)
                )
            else:
                death = Death(way, str(where), at_call(where.injection))
                job = lambda place, death=death: _until_hit(lambda: walk(place, death))  # noqa: E731
            jobs.append((way, job))  # type: ignore[arg-type]
            report.planned.append((way.name, then, str(where)))
    report.results = do_all(report, jobs, say)
    report.seconds = time.monotonic() - began
    return report


def _until_hit(attempt: Callable[[], Result]) -> Result:
    """A line in the log more or less, and the last call of a name is one too early or too late: tried again."""
    for _ in range(2):
        result = attempt()
        if result.hit:
            return result
    return attempt()


def _learner(way: Way) -> Callable[[Station], object]:
    return lambda place: (way.name, learn(place, way))


def _deaths(way: Way, points: Sequence[str], scope: Scope) -> list[Death]:
    """Afterwards the agent: at acts and records; otherwise at acts. The dice are the same in every run."""
    dice = random.Random(f"{way.name} {len(points)}")
    deaths = []
    for offset, afterwards in enumerate(scope.afterwards):
        numbers = choose(points, scope.records if afterwards == "agent" else 0)
        for index, number in enumerate(numbers[offset % scope.share :: scope.share]):
            twice = afterwards == "agent" and scope.second_lives and index % scope.second_lives == 0
            second = dice.randrange(3, 40) if twice else None
            deaths.append(Death(way, points[number - 1], at_point(number), afterwards, second))
    return deaths


def do_all(
    report: Report, jobs: Sequence[tuple[Way, Callable[[Station], object]]], say: Callable[[str], None] = print
) -> list:  # type: ignore[type-arg]
    """Do all jobs, each thread preferring those that begin where its node is; what they gave."""
    left, given, lock = list(jobs), [], threading.Lock()

    def take(place: Station) -> Callable[[Station], object] | None:
        with lock:
            if not left:
                return None
            at = next((i for i, (way, _) in enumerate(left) if place.prefers(way)), 0)
            return left.pop(at)[1]

    def work() -> None:
        with station() as place:
            while (job := take(place)) is not None:
                try:
                    found = job(place)
                except Exception as error:  # told below, and the run fails
                    where = ", ".join(map(str, getattr(job, "__defaults__", None) or ()))
                    report.broken.append(f"{where}: {error}\n{''.join(traceback.format_exception(error)[-3:])}")
                    say(f"BROKEN {where}: {str(error)[:300]}")
                else:
                    given.append(found)
                if len(given) % 25 == 0:
                    say(f"{len(given)} of {len(jobs)} walked.")

    if not jobs:
        return given
    with concurrent.futures.ThreadPoolExecutor(workers()) as pool:
        try:
            for future in [pool.submit(work) for _ in range(workers())]:
                future.result()
        finally:
            left.clear()  # on Ctrl-C each thread ends its walk, and none begins another
    return given


def table(report: Report) -> str:
    """Plan, step, point, planned, hit, outcome."""
    planned = collections.Counter((way, after, *_place(point)) for way, after, point in report.planned)
    hit, outcomes = collections.Counter(), collections.defaultdict(collections.Counter)  # type: ignore[var-annotated]
    for r in report.results:
        key = (r.way, r.afterwards, *_place(r.point))
        hit[key] += r.hit
        outcomes[key][r.outcome] += 1
    lines = [f"{'plan':17} {'then':7} {'step':19} {'point':14} {'planned':>7} {'hit':>4}  outcome"]
    for key, count in planned.items():
        ended = ", ".join(f"{n} {name}" for name, n in outcomes[key].items())
        lines.append(f"{key[0]:17} {key[1]:7} {key[3]:19} {key[2]:14} {count:7} {hit[key]:4}  {ended}")
    second = [r.second for r in report.results if r.second]
    lines.append(
        f"{report.hit} of {len(report.planned)} interruptions hit; {second.count('hit')} of {len(second)} second ones; "
        f"{len(report.broken)} promises broken; {report.seconds:.0f} s."
    )
    return "\n".join(lines)


def _place(point: str) -> tuple[str, str]:
    words = point.split()
    return " ".join(words[:2]), words[2] if len(words) > 2 else "(record)"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--share", type=int, default=1)
    parser.add_argument("--records", type=int, default=1)
    parser.add_argument("--second-lives", type=int, default=3)
    parser.add_argument("--way", action="append")
    parser.add_argument("--afterwards", action="append", choices=AFTERWARDS)
    parser.add_argument("--no-relay", action="store_true")
    options = parser.parse_args(arguments)
    scope = Scope(
        ways=[w for w in WAYS if not options.way or w.name in options.way],
        afterwards=options.afterwards or AFTERWARDS,
        share=options.share,
        records=options.records,
        second_lives=options.second_lives,
        relays=not options.no_relay,
    )
    report = run(scope)
    print(table(report))
    for text in report.broken:
        print(f"\n{text}", file=sys.stderr)
    return 0 if report.good else 1


if __name__ == "__main__":
    sys.exit(main())
