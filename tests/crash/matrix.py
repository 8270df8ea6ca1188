"""The crash matrix: the agent killed at every point the engine passes, then what comes afterwards, then a look.

Each way (ways.py) is walked once undisturbed to learn its points. Then it is walked

* once for each chosen point with a SIGKILL there, afterwards (``AFTERWARDS``) the agent started again, perhaps to
  die once more; or the power failing and returning; or the rescue alone, at once;
* once as a *relay*: one operation in which an agent dies at every act once, the next one going on.

Nodes are used again as long as they are left as they should be: a node is a thread's, ``Station`` keeps it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tests.crash.datastores import Keys
from tests.crash.look import Broken, look, one_datastore, rest_is_quiet
from tests.crash.quick_node import ADDRESS, QuickNode, quick_node, wait_for
from tests.crash.ways import Way, bring
from tests.standin.networks import own_network

AFTERWARDS = ("agent", "reboot", "rescue")
Strike = Callable[[QuickNode], contextlib.AbstractContextManager[None]]
"""Starts an agent that will die; inside of it the operation is asked for and the death awaited."""


def at_point(number: int) -> Strike:
    """At the n-th point the engine passes."""

    @contextlib.contextmanager
    def strike(node: QuickNode) -> Iterator[None]:
        node.start_agent(number)
        yield

    return strike


@dataclasses.dataclass(frozen=True, slots=True)
class Death:
    """Where one walk dies, and what comes afterwards."""

    way: Way
    point: str
    """In words, for the table."""
    strike: Strike
    afterwards: str = "agent"
    second: int | None = None
    """The second agent dies at its n-th point."""

    def __str__(self) -> str:
        again = f", again at point {self.second}" if self.second else ""
        return f"{self.way}, dead {self.point}, then {self.afterwards}{again}"


@dataclasses.dataclass(frozen=True, slots=True)
class Result:
    way: str
    afterwards: str
    point: str
    hit: bool
    second: str | None
    outcome: str


class Station:
    """A thread's node. ``at`` gives it, brought to where a way begins; after a failure a new one is made."""

    def __init__(self, make: Callable[[], contextlib.AbstractContextManager[QuickNode]] = quick_node) -> None:
        self._make = make
        self._stack = contextlib.ExitStack()
        self._node: QuickNode | None = None

    @contextlib.contextmanager
    def at(self, way: Way) -> Iterator[QuickNode]:
        if self._node is None:
            self._node = self._stack.enter_context(self._make())
        node = self._node
        try:
            bring(node, way.begins_on)
            yield node
            node.trace.unlink(missing_ok=True)
        except BaseException:
            sys.stderr.write(node.diagnosis())
            self.close()
            raise

    def close(self) -> None:
        self._node = None
        self._stack.close()

    def prefers(self, way: Way) -> bool:
        """Whether the node is where the way begins already."""
        return self._node is not None and self._node.on_etcd() == (way.begins_on == "etcd")


@contextlib.contextmanager
def station() -> Iterator[Station]:
    """For the calling thread, in a network of its own."""
    with own_network(ADDRESS):
        mine = Station()
        try:
            yield mine
        finally:
            mine.close()


def learn(place: Station, way: Way) -> list[str]:
    """Walk the way undisturbed; the points it passes."""
    with place.at(way) as node:
        before = node.keys()
        node.start_agent()
        operation = way.begin(node)
        ended = node.finish(operation)
        node.stop_agent()
        if ended["outcome"] != way.ends:
            raise Broken(f"{way.name} ended as {ended['outcome']}: {ended['reason']}")
        look(node, way, before, operation)
        return node.trace_text().splitlines()


def choose(points: Sequence[str], every_record: int) -> list[int]:
    """Numbers of the points to die at: every act, and each ``every_record``-th durable write."""
    chosen, records = [], 0
    for number, point in enumerate(points, 1):
        if point.endswith("record"):
            records += 1
            if not every_record or (records // 2) % every_record:
                continue
        chosen.append(number)
    return chosen


def walk(place: Station, death: Death) -> Result:
    """Die at the point, let come what comes afterwards, and look at what is left."""
    with place.at(death.way) as node:
        before, earlier = node.keys(), {r["id"] for r in node.records()}
        with death.strike(node):
            asked = death.way.begin(node) if node.agent_lives() else None
            wait_for(lambda: not node.agent_lives() or settled(node, earlier), "the end of the first life")
            hit = not node.agent_lives()
            if not hit:
                node.stop_agent()
        if hit and not was_killed(node):
            raise Broken("the agent died by itself")
        at_death = record_of(node, earlier)
        again = afterwards(node, death, before, at_death)
        wait_for(lambda: settled(node, earlier), "every operation has ended")
        node.stop_agent()
        record = record_of(node, earlier)
        if asked is not None and record is None:
            raise Broken("an operation was promised and is not recorded")
        outcome = look(node, death.way, before, record["id"] if record else None)
        if hit and outcome not in expected(death, at_death):
            raise Broken(f"ended as {outcome}, expected {expected(death, at_death)}")
        rest_is_quiet(node)
        return Result(death.way.name, death.afterwards, death.point, hit, again, outcome)


def afterwards(node: QuickNode, death: Death, before: Keys, at_death: dict[str, Any] | None) -> str | None:
    """Let come what comes; an agent runs at the end. Whether the second death hit, None when there was none."""
    if death.afterwards == "rescue":
        if not node.fire_rescue():
            raise Broken("the rescue did not bring the node back")
        if at_death and at_death["rescue"] and not at_death["committed"]:
            one_datastore(node, death.way.begins_on == "etcd", before)
            if node.gate.exists():
                raise Broken("the rescue left the gate closed")
    again = None
    if death.afterwards == "reboot":
        node.power_fails()
        node.power_returns()
    elif death.second is not None:
        node.start_agent(death.second)
        wait_for(lambda: not node.agent_lives() or settled(node, set()), "the end of the second life")
        again = "missed" if node.agent_lives() else "hit"
        node.stop_agent()
        node.start_agent()
    else:
        node.start_agent()
    return again


def expected(death: Death, at_death: dict[str, Any] | None) -> tuple[str, ...]:
    """The outcomes an interruption there may have; one, but where it depends on what the last record was."""
    if at_death is None:
        return ("never begun",)
    if at_death["outcome"]:
        return (at_death["outcome"],)
    if at_death["committed"]:
        return ("succeeded",)
    if death.afterwards == "reboot" or (death.afterwards == "rescue" and at_death["rescue"]):
        return ("rolled_back",)
    return (death.way.ends,)


def relay(place: Station, way: Way, planned: set[str], number: int = signal.SIGKILL) -> list[Result]:
    """One operation in which an agent is sent a signal at every act once, each time the next one going on.

    SIGTERM is never a rollback: it ends in order, and the record says where to go on.
    """
    with place.at(way) as node:
        before, operation = node.keys(), None
        for _ in range(2 * len(planned) + 2):
            node.start_agent("once" if number == signal.SIGKILL else "term")
            if operation is None:
                operation = way.begin(node)
                operation = operation or node.records()[-1]["id"]
            wait_for(lambda: not node.agent_lives() or settled(node, set()), f"a life of {way.name}")
            if node.agent_lives():
                break
            if node.agent is None or node.agent.returncode != (-signal.SIGKILL if number == signal.SIGKILL else 0):
                raise Broken("the agent died by itself")
        node.stop_agent()
        if not settled(node, set()):
            raise Broken(f"{way.name} does not end")
        outcome = look(node, way, before, operation)
        if outcome != way.ends:
            raise Broken(f"ended as {outcome}, expected {way.ends}")
        lines = node.trace_text().splitlines()
        struck = {line.rpartition(" ")[0] for line in lines if line.endswith((" DIED", " TERM"))}
        rest_is_quiet(node)
        kind = "relay" if number == signal.SIGKILL else "SIGTERM"
        return [Result(way.name, kind, point, point in struck, None, outcome) for point in sorted(planned)]


def was_killed(node: QuickNode) -> bool:
    return node.agent is not None and node.agent.poll() == -signal.SIGKILL


def record_of(node: QuickNode, earlier: set[str]) -> dict[str, Any] | None:
    return next((r for r in node.records() if r["id"] not in earlier), None)


def settled(node: QuickNode, earlier: set[str]) -> bool:
    """Every operation but the earlier ones has ended, and what is committed is tidied up."""
    records = [r for r in node.records() if r["id"] not in earlier]
    if not all(r["outcome"] is not None and r["phase"] == "finished" for r in records):
        return False
    return all(s["status"] == "done" for r in records if r["committed"] for s in r["steps"])
