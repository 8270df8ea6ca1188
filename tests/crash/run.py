"""Run the crash matrix and print its table.

    python -m tests.crash.run [--share N] [--records N] [--second-lives N] [--way NAME]…

``--share N``: every N-th chosen point; ``--records N``: every N-th durable write counts as a point; acts always do.
Exit status 1 when a promise was broken, or fewer interruptions hit than were planned.
"""

from __future__ import annotations

import argparse
import collections
import concurrent.futures
import dataclasses
import sys
import time
import traceback
from collections.abc import Iterable, Sequence

from tests.crash.matrix import WAYS, Result, Way, choose, learn, second_points, walk, workers
from tests.crash.quick_node import ADDRESS
from tests.standin.networks import own_network


@dataclasses.dataclass(frozen=True, slots=True)
class Task:
    way: Way
    point: str
    number: int
    second: int | None


def plan(ways: Iterable[Way], *, share: int, records: int, second_lives: int) -> list[Task]:
    """Learn each way, and choose where to die. ``second_lives``: each N-th task dies once more."""
    tasks = []
    for way in ways:
        points = _in_network(lambda way=way: learn(way))
        chosen = choose(points, records)[::share]
        dice = second_points(way, len(points))
        for index, number in enumerate(chosen):
            again = dice.randrange(3, 40) if second_lives and index % second_lives == 0 else None
            tasks.append(Task(way, points[number - 1], number, again))
        print(f"{way.name}: {len(points)} points, {len(chosen)} planned", flush=True)
    return tasks


def run(tasks: Sequence[Task]) -> tuple[list[Result], list[str]]:
    """The results, and what was broken with how it came."""
    results, broken = [], []
    with concurrent.futures.ThreadPoolExecutor(workers()) as pool:
        futures = {pool.submit(_in_network, _walker(task)): task for task in tasks}
        for number, future in enumerate(concurrent.futures.as_completed(futures), 1):
            task = futures[future]
            try:
                results.append(future.result())
            except Exception as error:
                again = f", again at {task.second}" if task.second else ""
                place = f"{task.way.name}, point {task.number} ({task.point}{again})"
                broken.append(f"{place}: {error}\n{''.join(traceback.format_exception(error)[-3:])}")
                print(f"BROKEN {place}: {str(error)[:300]}", flush=True)
            if number % 20 == 0:
                print(f"{number} of {len(tasks)} lives", flush=True)
    return results, broken


def _walker(task: Task):  # type: ignore[no-untyped-def]
    return lambda: walk(task.way, task.point, task.number, task.second)


def _in_network(work):  # type: ignore[no-untyped-def]
    with own_network(ADDRESS):
        return work()


def table(tasks: Sequence[Task], results: Sequence[Result]) -> str:
    """Plan, step, point, planned, hit, outcome."""
    planned = collections.Counter((t.way.name, *_place(t.point)) for t in tasks)
    hit = collections.Counter((r.way, *_place(r.point)) for r in results if r.hit)
    outcomes = collections.defaultdict(collections.Counter)  # type: ignore[var-annotated]
    for r in results:
        outcomes[(r.way, *_place(r.point))][r.outcome] += 1
    lines = [f"{'plan':18} {'step':20} {'point':16} {'planned':>7} {'hit':>5}  outcome"]
    for key, count in planned.items():
        ended = ", ".join(f"{n} {name}" for name, n in outcomes[key].items())
        lines.append(f"{key[0]:18} {key[2]:20} {key[1]:16} {count:7} {hit[key]:5}  {ended}")
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
    options = parser.parse_args(arguments)
    ways = [w for w in WAYS if not options.way or w.name in options.way]
    began = time.monotonic()
    tasks = plan(ways, share=options.share, records=options.records, second_lives=options.second_lives)
    results, broken = run(tasks)
    print(table(tasks, results))
    hit = sum(r.hit for r in results)
    again = [r.second for r in results if r.second]
    seconds = time.monotonic() - began
    print(
        f"{hit} of {len(tasks)} interruptions hit; {again.count('hit')} of {len(again)} second ones. {seconds:.0f} s."
    )
    for text in broken:
        print(f"\n{text}", file=sys.stderr)
    return 1 if broken or hit < len(tasks) else 0


if __name__ == "__main__":
    sys.exit(main())
