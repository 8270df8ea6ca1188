"""An operation cut off at a place of the window: the agent dead, k3s as it happens to be."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping

from tests.crash.datastores import Keys
from tests.crash.look import Broken, nothing_left, one_datastore, truthful
from tests.crash.matrix import Station
from tests.crash.quick_node import K3S, QuickNode, wait_for
from tests.crash.ways import WAYS, Way

IN_THE_COPY = "in the copy"
AT_KEY = 100
BY_NAME: Mapping[str, Way] = {way.name: way for way in WAYS}


@dataclasses.dataclass(frozen=True, slots=True)
class Cut:
    """``point``: where the agent dies (tests/crash/agent.py), or IN_THE_COPY: k3s stands still in it."""

    way: str
    point: str

    def __str__(self) -> str:
        return f"{self.way}, {self.point}"


CUTS = (
    Cut("migrate forward", "before do close-gate"),
    Cut("migrate forward", "before do stop-k3s"),
    Cut("migrate forward", "after do enable-etcd"),
    Cut("migrate forward", IN_THE_COPY),
    Cut("migrate forward", "before do prove"),
    Cut("migrate back", "before undo start-k3s"),
    Cut("migrate back", "after undo enable-etcd"),
    Cut("rollback forward", "after do retire-etcd"),
    Cut("rollback forward", "before do prove"),
    Cut("rollback back", "before undo restore-sqlite"),
)


@dataclasses.dataclass(frozen=True, slots=True)
class Found:
    """The node as it lies there, and what it held."""

    node: QuickNode
    way: Way
    before: Keys
    operation: str

    def outcome(self) -> tuple[str | None, str]:
        record = self.node.record(self.operation)
        return record["outcome"], record["finished_by"]

    def is_back(self) -> None:
        """One datastore, the one it came from, with all it held; the record says so; nothing is left."""
        self.ended_as("rolled_back")

    def ended_as(self, outcome: str) -> None:
        if self.outcome()[0] != outcome:
            raise Broken(f"{self.outcome()}: {self.node.record(self.operation)['reason']}")
        one_datastore(self.node, self.way.on_etcd_after(outcome), self.before)
        nothing_left(self.node)
        truthful(self.node.record(self.operation))


@contextlib.contextmanager
def cut_off(place: Station, cut: Cut, **speed: object) -> Iterator[Found]:
    """``speed``: of the stand-in, for every k3s that is started from the operation on."""
    way = BY_NAME[cut.way]
    with place.at(way) as node:
        usual = node.speed
        node.speed = {**usual, **speed}
        try:
            yield _cut(node, way, cut.point)
        finally:
            node.speed = usual
            node.stop_agent()


def _cut(node: QuickNode, way: Way, point: str) -> Found:
    before, earlier = node.keys(), {r["id"] for r in node.records()}
    if point == IN_THE_COPY:
        way = dataclasses.replace(way, faults={"hang_at_key": AT_KEY})
        copied = len(_copied(node))
        node.start_agent()
        way.begin(node)
        wait_for(lambda: len(_copied(node)) >= copied + AT_KEY - 1, "k3s is in the copy")
        node.stop_agent(9)
    else:
        node.start_agent(point)
        way.begin(node)
        wait_for(lambda: not node.agent_lives(), f"the agent has died {point}")
    (operation,) = {r["id"] for r in node.records()} - earlier
    return Found(node, way, before, operation)


def _copied(node: QuickNode) -> list[str]:
    return [line for line in node.systemd.messages(K3S) if "Migrating etcd key" in line]
