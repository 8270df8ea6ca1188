"""The crash matrix: the agent killed at every point the engine passes, then started again, then looked at.

A way is an operation that goes a known way (forward, or back because of a fault). It is walked once undisturbed to
learn its points; then once for each chosen point with a SIGKILL there, and, for some, with a second SIGKILL in the
resumption. New plans and new steps are covered by construction: the points are learnt, not listed.
"""

from __future__ import annotations

import dataclasses
import fcntl
import os
import random
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.crash.quick_node import WRITTEN_BY_ITSELF, QuickNode, quick_node, wait_for

WAIT = "/v1/operations/{}/wait?timeout=90s"


@dataclasses.dataclass(frozen=True, slots=True)
class Way:
    """An operation and how it is to end when nobody kills the agent."""

    name: str
    kind: str
    body: Mapping[str, object]
    ends: str
    faults: Mapping[str, object] = dataclasses.field(default_factory=dict)
    settings: Mapping[str, object] = dataclasses.field(default_factory=dict)
    after_migration: bool = False
    """The operation begins on a server that has been migrated."""
    faults_later: bool = False
    """The faults are switched on only when the operation begins (after the migration)."""


WAYS: tuple[Way, ...] = (
    Way("migrate forward", "migrate", {"timeout": "60s"}, "succeeded"),
    Way(
        "migrate back",
        "migrate",
        {"timeout": "60s"},
        "rolled_back",
        faults={"skip_key_number": 200},
    ),
    Way(
        "rollback forward",
        "rollback",
        {"writes": "discard", "confirm_lost_writes": True, "timeout": "60s"},
        "succeeded",
        after_migration=True,
    ),
    Way(
        "rollback back",
        "rollback",
        {"writes": "discard", "confirm_lost_writes": True, "timeout": "60s"},
        "rolled_back",
        faults={"exit_at": "sqlite-open"},
        after_migration=True,
        faults_later=True,
    ),
)


@dataclasses.dataclass(frozen=True, slots=True)
class Result:
    way: str
    point: str
    number: int
    hit: bool
    second: str | None
    outcome: str


class Broken(AssertionError):
    """The promise does not hold."""


def prepare(node: QuickNode, way: Way) -> dict[bytes, bytes]:
    """Bring the node to where the way begins; the keys it has there."""
    before = node.sqlite_keys()
    if way.after_migration:
        node.start_agent()
        operation = node.begin("migrate", {"timeout": "60s"})
        status, answer = node.api("GET", WAIT.format(operation), timeout=100)
        assert (status, answer["outcome"]) == (200, "succeeded"), answer
        node.stop_agent()
        node.trace.unlink()
    if way.faults_later:
        node.change_faults(way.faults)
    return before


def learn(way: Way) -> list[str]:
    """Walk the way undisturbed; the points it passes."""
    with quick_node(faults={} if way.faults_later else way.faults, settings=way.settings) as node:
        before = prepare(node, way)
        node.start_agent()
        operation = node.begin(way.kind, way.body)
        status, answer = node.api("GET", WAIT.format(operation), timeout=100)
        assert status == 200 and answer["outcome"] == way.ends, answer
        node.stop_agent()
        look(node, way, before)
        return node.trace_text().splitlines()


def choose(points: Sequence[str], every_record: int) -> list[int]:
    """Numbers of the points to die at: every act, and each ``every_record``-th durable write."""
    chosen, records = [], 0
    for number, point in enumerate(points, 1):
        if point.endswith("record"):
            records += 1
            if (records // 2) % every_record:
                continue
        chosen.append(number)
    return chosen


def walk(way: Way, point: str, number: int, second: int | None = None) -> Result:
    """Die at the point, start again (perhaps dying once more), and look at what is left."""
    with quick_node(faults={} if way.faults_later else way.faults, settings=way.settings) as node:
        before = prepare(node, way)
        node.start_agent(die_at=number)
        if node.agent_lives():
            operation = node.begin(way.kind, way.body)
            wait_for(lambda: not node.agent_lives() or _ended(node, operation), "the end of the first life")
        hit = not node.agent_lives()
        died_at = node.trace_text().splitlines()[-1] if hit else ""
        if hit and not died_at.endswith("DIED"):
            raise Broken(f"the agent died by itself: {node.diagnosis()}")
        node.stop_agent()
        again = None
        if second is not None:
            node.start_agent(die_at=second)
            wait_for(lambda: not node.agent_lives() or _settled(node), "the end of the second life")
            again = "hit" if not node.agent_lives() else "missed"
            node.stop_agent()
        node.start_agent()
        wait_for(lambda: _settled(node), "every operation has ended")
        node.stop_agent()
        outcome = look(node, way, before)
        rest_is_quiet(node)
        return Result(way.name, point, number, hit, again, outcome)


def _ended(node: QuickNode, operation: str | None) -> bool:
    return any(r["id"] == operation and r["outcome"] and r["phase"] == "finished" for r in node.records())


def _settled(node: QuickNode) -> bool:
    done = [r["outcome"] is not None and r["phase"] == "finished" for r in node.records()]
    if not all(done):
        return False
    return all(s["status"] == "done" for r in node.records() if r["committed"] for s in r["steps"])


# --- looking at what is left -----------------------------------------------------------------------


def look(node: QuickNode, way: Way, before: Mapping[bytes, bytes]) -> str:
    """Assert the end state; the outcome in words."""
    records = [r for r in node.records() if r["kind"] == way.kind]
    outcome = records[-1]["outcome"] if records else "never begun"
    went = outcome == "succeeded"
    if outcome not in ("succeeded", "rolled_back", "never begun"):
        raise Broken(f"outcome {outcome}: {records[-1]['reason']}")
    if went and way.ends != "succeeded":
        raise Broken(f"declared a success although {way.faults}")
    on_etcd = went if way.kind == "migrate" else not went
    if node.on_etcd() != on_etcd:
        raise Broken(f"{outcome}, but on etcd: {node.on_etcd()}")
    if (node.db / "state.db").exists() == on_etcd:
        raise Broken(f"{outcome}, but state.db exists: {not on_etcd}")
    state = node.systemctl("show", "--property=ActiveState", "k3s.service")
    if state != "active":
        raise Broken(f"k3s.service is {state}")
    _same_keys(before, node.etcd_keys() if on_etcd else node.sqlite_keys())
    _nothing_left(node, on_etcd)
    if records:
        _truthful(records[-1])
        _chain(node.trace_text().splitlines(), [s["name"] for s in records[-1]["steps"]])
    return str(outcome)


def _same_keys(before: Mapping[bytes, bytes], after: Mapping[bytes, bytes]) -> None:
    ours = tuple(prefix.encode() for prefix in WRITTEN_BY_ITSELF)
    differ = [k for k, v in before.items() if not k.startswith(ours) and after.get(k) != v]
    extra = [k for k in after if k not in before and not k.startswith(ours)]
    if differ or extra:
        raise Broken(f"{len(differ)} keys lost or changed ({differ[:3]}), {len(extra)} too many ({extra[:3]})")


def _nothing_left(node: QuickNode, on_etcd: bool) -> None:
    gate = node.systemd.units / "k3s.service.d/zz-k3s-ha-agent-gate.conf"
    drop_in = node.root / "etc/config.yaml.d/zz-k3s-ha-agent.yaml"
    if gate.exists():
        raise Broken("the gate is still closed")
    if drop_in.exists() != on_etcd:
        raise Broken(f"our drop-in exists: {drop_in.exists()}, on etcd: {on_etcd}")
    if node.systemd.unit("k3s-ha-agent-rescue.timer").get("active_state", "inactive") != "inactive":
        raise Broken("the rescue is still armed")
    places = (node.db, node.state, node.systemd.units, node.root / "etc")
    temporary = [
        path
        for place in places
        for path in place.rglob("*")
        if (path.name.endswith((".tmp", ".part", ".rescue")) or path.name.startswith("."))
        and node.db / "etcd" not in path.parents  # etcd keeps a 0.tmp of its own
    ]
    if temporary:
        raise Broken(f"temporary files are left: {temporary}")
    for name in ("state.db-wal", "state.db-shm", "state.db.migrated"):
        if on_etcd and (node.db / name).exists():
            raise Broken(f"{name} is left in server/db")
    with (node.state / "lock").open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # BlockingIOError: somebody still holds it


def _truthful(record: Mapping[str, Any]) -> None:
    """The record says of every step what its outcome implies."""
    statuses = {s["status"] for s in record["steps"]}
    allowed = {"done"} if record["outcome"] == "succeeded" else {"undone", "pending"}
    if not statuses <= allowed:
        raise Broken(f"{record['outcome']}, but steps are {statuses}")
    if record["committed"] != (record["outcome"] == "succeeded"):
        raise Broken(f"committed: {record['committed']} with outcome {record['outcome']}")


def _chain(trace: Sequence[str], steps: Sequence[str]) -> None:
    """Steps begin in the order of the plan, and are undone in the reverse one; a resumption repeats only the last.

    A step repeated after a commitment failed it is no exception: there is none in these ways.
    """
    done = [steps.index(p.split()[2]) for p in trace if p.startswith("before do ")]
    undone = [steps.index(p.split()[2]) for p in trace if p.startswith("before undo ")]
    for earlier, later in zip(done, done[1:], strict=False):
        if later not in (earlier, earlier + 1):
            raise Broken(f"{steps[later]} was begun after {steps[earlier]}")
    for earlier, later in zip(undone, undone[1:], strict=False):
        if later not in (earlier, earlier - 1):
            raise Broken(f"{steps[later]} was undone after {steps[earlier]}")


def rest_is_quiet(node: QuickNode) -> None:
    """A further start of the agent changes nothing."""
    files = {path: path.read_bytes() for path in node.state.glob("operations/*/record.json")}
    passed = node.trace_text().count("\n")
    node.start_agent()
    node.stop_agent()
    if {path: path.read_bytes() for path in files} != files or node.trace_text().count("\n") != passed:
        raise Broken("a second resumption did something")


def second_points(way: Way, seed: int) -> random.Random:
    """Where to die again in the resumption: reproducible from the seed that is printed."""
    return random.Random(f"{way.name} {seed}")


def workers() -> int:
    return max(1, min(4, os.cpu_count() or 1))
