"""The waves themselves, with clusters that are driven by the test."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from k3s_ha_agent.fleet.configuration import Cluster, Options, Server, Waves
from k3s_ha_agent.fleet.outcome import EXIT_CODES, Ending, Result, exit_code
from k3s_ha_agent.fleet.report import EventLog, Report
from k3s_ha_agent.fleet.waves import run, split

CLUSTERS = [Cluster(name, (Server("a", f"unix:/{name}", None),), Options()) for name in "pqrstu"]


async def as_they_are(clusters: Sequence[Cluster]) -> Sequence[Cluster]:
    return clusters


def test_waves_are_canaries_and_then_the_others_in_order() -> None:
    rules = Waves(canary=("t", "q"), size=3)
    found = [(wave.name, "".join(c.name for c in wave.clusters)) for wave in split(CLUSTERS, rules)]
    assert found == [("canary", "tq"), ("wave 1", "prs"), ("wave 2", "u")]
    assert [wave.name for wave in split(CLUSTERS[:1], rules)] == ["wave 1"]


async def test_a_bug_in_one_cluster_ends_no_other(tmp_path: Path) -> None:
    async def drive(cluster: Cluster) -> Ending:
        if cluster.name == "q":
            raise RuntimeError("nobody thought of this")
        return Ending(cluster.name, Result.DONE, "well")

    rules = Waves(size=3, at_once=2, stop_after_failures=1)
    with EventLog(tmp_path / "log") as log:
        endings = await run(split(CLUSTERS, rules), rules, as_they_are, drive, Report("f", log))
    results = {ending.cluster: ending.result.value for ending in endings}
    assert results == {"p": "done", "q": "failed", "r": "done", "s": "not_begun", "t": "not_begun", "u": "not_begun"}
    events = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    (bug,) = [event for event in events if event["event"] == "bug"]
    assert bug["cluster"] == "q" and "nobody thought of this" in bug["trace"] and "Traceback" in bug["trace"]
    assert (tmp_path / "log").stat().st_mode & 0o007 == 0


async def test_those_left_in_the_middle_have_the_first_turns_of_their_wave() -> None:
    async def backwards(clusters: Sequence[Cluster]) -> Sequence[Cluster]:
        return list(reversed(clusters))

    async def drive(cluster: Cluster) -> Ending:
        turns.append(cluster.name)
        return Ending(cluster.name, Result.DONE, "well")

    turns: list[str] = []
    rules = Waves(canary=("s",), size=3, at_once=1)
    await run(split(CLUSTERS, rules), rules, backwards, drive, Report("f", None))
    assert "".join(turns) == "srqput"


def test_the_exit_code_is_that_of_the_gravest() -> None:
    endings = [Ending(result.value, result, "") for result in Result]
    assert exit_code(endings) == 4
    for result, code in EXIT_CODES:
        assert exit_code(endings) == code
        endings = [ending for ending in endings if ending.result is not result]
    assert exit_code(endings) == 0 == exit_code([])
