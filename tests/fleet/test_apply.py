"""Small fleets, each with one thing to see."""

from __future__ import annotations

import asyncio
import json
import re
import sys

import pytest

from k3s_ha_agent.model import Outcome
from tests.fleet.conftest import BACK, MakeFleet, finish, kill
from tests.fleet.simulated import TOKEN, Fate
from tests.unit.ctl.test_terminal import Terminal

THREE = [Fate(), Fate(), Fate()]


async def test_a_fleet_is_done_and_stays_done(make_fleet: MakeFleet) -> None:
    fleet = await make_fleet({"one": [Fate()], "three": THREE, "two": [Fate(), Fate()]})
    assert (await fleet.run("plan")).code == 0
    assert fleet.world.history == [], "a plan begins nothing"

    done = await fleet.run("apply", "--log", str(fleet.log))

    assert done.code == 0, done
    assert {state[0] for state in fleet.world.state().values()} == {"etcd"}
    assert [len(cluster.members) for cluster in fleet.world.clusters.values()] == [1, 3, 2]
    assert "three: done: 3 voters, all healthy" in done.out
    begun = len(fleet.world.history)
    assert (await fleet.run("apply")).code == 0
    assert len(fleet.world.history) == begun, "nothing is begun on a fleet that is done"
    status = await fleet.run("status", "-o", "json")
    assert [row["what"] for row in status.json["servers"]] == ["done"] * 6
    assert fleet.world.wrongs == []


async def test_no_token_is_told(make_fleet: MakeFleet) -> None:
    fleet = await make_fleet(
        {"a": THREE, "b": THREE, "c": [Fate(), Fate(outcomes=BACK)], "d": [Fate(), Fate(refused=True)]}
    )
    done = await fleet.run("apply", "--log", str(fleet.log))
    assert [o.kind.value for o in fleet.world.clusters["b"].servers[2].operations] == ["join"], "b joins by token"
    everything = done.out + done.err + fleet.log.read_text()
    assert TOKEN not in everything and "a-secret" not in everything


@pytest.mark.parametrize(
    ("fates", "code", "result", "why"),
    [
        ([Fate(refused=True)], 5, "blocked", "disk: 97 % full"),
        ([Fate(), Fate(refused=True)], 5, "blocked", "b: join refused: disk: 97 % full"),
        ([Fate(alien=True)], 5, "blocked", "cannot migrate"),
        ([Fate(), Fate(alien=True)], 5, "blocked", "cannot join"),
        ([Fate(outcomes=BACK)], 3, "rolled_back", "keys-equal: found 7, needed 8."),
        ([Fate(), Fate(), Fate(outcomes=BACK)], 3, "rolled_back", "c: join join-1 was rolled back"),
        ([Fate(outcomes=(Outcome.ROLLBACK_FAILED,))], 4, "rollback_failed", "could not be undone"),
        ([Fate(), Fate(dead=True)], 7, "unreachable", "No agent answers"),
        ([Fate(), Fate(sick=True)], 1, "failed", "not proven: a sees members that are not healthy: b-1a2b3c4d"),
    ],
)
async def test_what_can_become_of_a_cluster(
    make_fleet: MakeFleet, fates: list[Fate], code: int, result: str, why: str
) -> None:
    """Each its own exit code, the same when asked again, and the cluster beside it is done all the same."""
    fleet = await make_fleet({"bad": fates, "good": [Fate(), Fate()]})
    for _ in range(2):
        done = await fleet.run("apply", "-o", "json")
        assert done.code == code == done.json["exit_code"], done
        bad, good = done.json["clusters"]
        assert (bad["result"], good["result"]) == (result, "done")
        assert why in bad["why"], bad
        state = fleet.world.state()
    assert done.json["counts"]["done"] == 1
    assert fleet.world.state() == state
    assert all(len(server) <= 2 for server in state.values()), "no second operation on any server"


async def test_a_server_in_the_way_keeps_its_cluster_untouched(make_fleet: MakeFleet) -> None:
    fleet = await make_fleet({"dead": [Fate(), Fate(), Fate(dead=True)], "alien": [Fate(), Fate(alien=True)]})
    assert (await fleet.run("apply")).code == 7
    assert fleet.world.history == []


async def test_what_went_back_goes_forward_again_only_when_asked_and_once(make_fleet: MakeFleet) -> None:
    fleet = await make_fleet({"x": [Fate(outcomes=BACK * 2), Fate()]})
    assert (await fleet.run("apply")).code == 3
    assert (await fleet.run("apply")).code == 3
    assert len(fleet.world.history) == 2
    assert (await fleet.run("apply", "--retry")).code == 3
    assert len(fleet.world.history) == 4, "one more attempt, and not more"
    assert (await fleet.run("plan")).code == 3
    assert (await fleet.run("plan", "--retry")).code == 0
    assert (await fleet.run("apply", "--retry")).code == 0
    assert fleet.world.state() == {
        "x/a": ["etcd", ("migrate", "rolled_back"), ("migrate", "rolled_back"), ("migrate", "succeeded")],
        "x/b": ["etcd", ("join", "succeeded")],
    }


@pytest.mark.parametrize("misfortune", [Fate(outcomes=BACK), Fate(refused=True)], ids=["rolled back", "blocked"])
async def test_a_canary_that_is_not_done_stops_everything(make_fleet: MakeFleet, misfortune: Fate) -> None:
    waves = {"canary": ["c2"], "stop_after_failures": 9}
    fleet = await make_fleet({"c1": [Fate()], "c2": [misfortune], "c3": [Fate()]}, waves=waves)
    done = await fleet.run("apply", "-o", "json")
    assert done.code == 6
    assert {c["cluster"]: c["result"] for c in done.json["clusters"] if c["cluster"] != "c2"} == {
        "c1": "not_begun",
        "c3": "not_begun",
    }
    assert {h[1] for h in fleet.world.history} <= {"c2"}


async def test_only_one_apply_at_a_time(make_fleet: MakeFleet) -> None:
    fleet = await make_fleet({"x": THREE}, step_time=0.15)
    first = await fleet.start("apply")
    await asyncio.wait_for(fleet.world.until_begun(1), 60)
    second = await fleet.run("apply")
    assert second.code == 6 and "Another k3s-ha-fleet apply" in second.err
    assert (await finish(first)).code == 0


@pytest.mark.parametrize("number", [2, 15], ids=["SIGINT", "SIGTERM"])
async def test_asked_to_stop_it_leaves_what_it_began(make_fleet: MakeFleet, number: int) -> None:
    fleet = await make_fleet({"x": THREE}, step_time=0.15)
    child = await fleet.start("apply")
    await asyncio.wait_for(fleet.world.until_begun(1), 60)
    child.send_signal(number)
    done = await finish(child)
    assert done.code == 130 and "Go on: k3s-ha-fleet apply" in done.err and "Traceback" not in done.err
    assert (await fleet.run("apply")).code == 0
    assert [len(server.operations) for server in fleet.world.clusters["x"].servers] == [1, 1, 1]


async def test_what_a_killed_run_began_counts_among_those_at_once(make_fleet: MakeFleet) -> None:
    """Also where it stands last in the file: else it would go on beside as many others as are allowed."""
    fleet = await make_fleet(dict.fromkeys("uvwxyz", THREE), step_time=0.05, waves={"size": 6, "at_once": 2})
    child = await fleet.start("apply", "--cluster", "y", "--cluster", "z")
    await asyncio.wait_for(fleet.world.until_begun(2), 60)
    fleet.world.hold()
    await kill(child)
    fleet.world.until_watched()
    assert (await fleet.run("apply")).code == 0
    assert fleet.world.most_at_once() == 2
    assert fleet.world.spans().keys() == set("uvwxyz")


async def test_servers_of_two_clusters_are_not_taken_for_one(make_fleet: MakeFleet) -> None:
    fleet = await make_fleet({"x": [Fate(), Fate()], "y": [Fate(), Fate(), Fate()]})
    assert (await fleet.run("apply")).code == 0
    text = (
        fleet.file.read_text().replace("x-b.sock", "swap").replace("y-b.sock", "x-b.sock").replace("swap", "y-b.sock")
    )
    fleet.file.write_text(text)
    done = await fleet.run("status", "-o", "json")
    assert done.code == 1
    assert all("do not see the same members" in row["why"] for row in done.json["servers"])


async def test_names_and_selection(make_fleet: MakeFleet) -> None:
    fleet = await make_fleet({"x": [Fate()], "y": [Fate()]})
    assert (await fleet.run("apply", "--cluster", "z")).code == 2
    assert (await fleet.run("apply", "--cluster", "y")).code == 0
    assert {h[1] for h in fleet.world.history} == {"y"}


async def test_the_log_tells_it_all(make_fleet: MakeFleet) -> None:
    fleet = await make_fleet({"x": [Fate(), Fate(outcomes=BACK)]}, waves={"canary": ["x"]})
    done = await fleet.run("apply", "--log", str(fleet.log))
    names = [json.loads(line)["event"] for line in fleet.log.read_text().splitlines()]
    assert names[:3] == ["run-began", "wave-began", "cluster-began"]
    assert names[-3:] == ["cluster-ended", "wave-ended", "run-ended"]
    begun = fleet.events("operation-begun")
    assert [event["idempotency_key"] for event in begun] == ["fleet/sims/x/a/migrate/1", "fleet/sims/x/b/join/1"]
    assert [event["outcome"] for event in fleet.events("operation-ended")] == ["succeeded", "rolled_back"]
    assert fleet.events("run-ended")[0]["exit_code"] == done.code == 3


async def test_on_a_terminal_it_asks_and_draws(make_fleet: MakeFleet) -> None:
    """A real terminal (a pty): the question, the picture drawn anew, colours, and the table of what failed."""
    fleet = await make_fleet({"x": THREE, "y": [Fate(outcomes=BACK)]}, step_time=0.1, waves={"size": 1})
    command = [sys.executable, "-m", "k3s_ha_agent.fleet.main", "apply", str(fleet.file)]

    def refuse() -> int:
        terminal = Terminal(command)
        terminal.until("Apply to 2 clusters?")
        terminal.type("n\n")
        return terminal.end()

    assert await asyncio.to_thread(refuse) == 1
    assert fleet.world.history == []

    def agree() -> tuple[int, str]:
        terminal = Terminal(command)
        terminal.until("[y/N]")
        terminal.type("y\n")
        return terminal.end(), terminal.text

    code, text = await asyncio.to_thread(agree)
    assert code == 3
    assert "wave 1 of 2" in text and "running" in text and "a migrate" in text
    assert re.search(r"\x1b\[[0-9;]*3[0-9]m", text), "no colours"
    assert re.search(r"\x1b\[[0-9]*A", text), "never drawn anew"
    assert "Ended: 1 done, 1 rolled back." in text
