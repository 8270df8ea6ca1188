"""Three hundred clusters with random misfortunes over a bad line: waves, limits, and being killed."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from tests.fleet.conftest import Fleet, MakeFleet, finish, kill, random_fates
from tests.fleet.simulated import TOKEN, World

NUMBER = 300
SEED = 20211
WAVES: dict[str, Any] = {"canary": ["site-006", "site-001"], "size": 100, "at_once": 20, "stop_after_failures": 1000}
FATES = random_fates(NUMBER, SEED)


def waves_of(names: Sequence[str]) -> list[set[str]]:
    """The waves as they should be, made here once more."""
    others = [name for name in names if name not in WAVES["canary"]]
    size = WAVES["size"]
    return [set(WAVES["canary"]), *(set(others[n : n + size]) for n in range(0, len(others), size))]


def assert_waves_kept(world: World) -> None:
    """Nothing of a wave begins before everything of the one before has ended; never more than allowed at once."""
    known = world.spans()
    waves = [[known[name] for name in wave if name in known] for wave in waves_of(list(FATES))]
    for before, after in itertools.pairwise(waves):
        assert before and after, "a wave in which nothing happened shows nothing"
        assert max(end for _, end in before) < min(begin for begin, _ in after)
    assert 1 < world.most_at_once() <= WAVES["at_once"]


def assert_begun_once(world: World) -> None:
    """At most one operation per server: with nobody asking to retry, there is no reason for two."""
    begun = Counter((cluster, server) for what, cluster, server, _ in world.history if what == "began")
    assert begun and max(begun.values()) == 1, begun.most_common(3)
    assert world.wrongs == []


def expected(fates: dict[str, Any]) -> dict[str, str]:
    """What becomes of each cluster, told from the fates alone."""
    results = {}
    for name, servers in fates.items():
        result = "done"
        if any(fate.sick for fate in servers):
            result = "failed"
        for fate in reversed(servers):  # the first in the way counts
            if fate.refused:
                result = "blocked"
            elif fate.outcomes:
                result = fate.outcomes[0].value
        if any(fate.alien for fate in servers):
            result = "blocked"
        if any(fate.dead for fate in servers):
            result = "unreachable"
        results[name] = result
    return results


async def make(make_fleet: MakeFleet, **waves: Any) -> Fleet:
    # ``reach`` is generous: over this line one question in ten gets lost, and the machine is shared.
    return await make_fleet(FATES, seed=SEED, noise=0.03, waves={**WAVES, **waves}, limits={"reach": "3s"})


@pytest.fixture(scope="module")
def results() -> dict[str, str]:
    found = expected(FATES)
    assert len(set(found.values())) == 6, f"choose another seed: {Counter(found.values())}"
    assert [found[name] for name in WAVES["canary"]] == ["done", "done"]
    return found


async def test_waves_are_kept_and_each_ends_as_it_must(make_fleet: MakeFleet, results: dict[str, str]) -> None:
    fleet = await make(make_fleet)
    done = await fleet.run("apply", "-o", "json", "--log", str(fleet.log))

    assert {c["cluster"]: c["result"] for c in done.json["clusters"]} == results
    assert done.code == 4
    assert_waves_kept(fleet.world)
    assert_begun_once(fleet.world)
    assert fleet.world.lost > 20, "hardly a question was lost: this shows nothing"
    assert TOKEN not in fleet.log.read_text() + done.out + done.err
    assert len(fleet.events("cluster-ended")) == NUMBER


async def test_killed_and_run_again_it_ends_the_same(make_fleet: MakeFleet, results: dict[str, str]) -> None:
    """SIGKILL at several moments; what was begun goes on meanwhile, and is found again."""
    fleet = await make(make_fleet)
    moments = (1, 90, 350)
    for begun in moments:
        child = await fleet.start("apply", "--log", str(fleet.log))
        await asyncio.wait_for(fleet.world.until_begun(begun), 120)
        fleet.world.hold()  # else what was begun would have ended before the next run is there
        await kill(child)
        fleet.world.until_watched()
    done = await finish(await fleet.start("apply", "-o", "json", "--log", str(fleet.log)))

    assert {c["cluster"]: c["result"] for c in done.json["clusters"]} == results
    assert_begun_once(fleet.world)
    assert_waves_kept(fleet.world)
    assert len(fleet.events("run-began")) == len(moments) + 1 and len(fleet.events("run-ended")) == 1
    assert len(fleet.events("operation-followed")) >= len(moments), "too few were left running: this shows nothing"
    for line in fleet.log.read_text().splitlines():
        json.loads(line)  # no half lines


async def test_it_stops_after_so_many_failures(make_fleet: MakeFleet, results: dict[str, str]) -> None:
    """The limit is looked at between waves; nothing of a later wave is touched, also when run again."""
    failures = {"failed", "rolled_back", "rollback_failed", "unreachable"}
    waves = waves_of(list(FATES))
    failed = [sum(1 for name in wave if results[name] in failures) for wave in waves[:3]]
    assert failed[0] == 0 and failed[1] >= 1 and failed[2] >= 1, f"choose another seed: {failed}"
    fleet = await make(make_fleet, stop_after_failures=failed[1] + 1)
    for _ in range(2):
        done = await fleet.run("apply", "-o", "json")
        assert done.code == (4 if "rollback_failed" in {results[n] for w in waves[:3] for n in w} else 6)
        found = {c["cluster"]: c["result"] for c in done.json["clusters"]}
        for number, wave in enumerate(waves):
            for name in wave:
                assert found[name] == (results[name] if number < 3 else "not_begun")
        assert fleet.world.spans().keys() <= waves[0] | waves[1] | waves[2]
    assert_begun_once(fleet.world)
