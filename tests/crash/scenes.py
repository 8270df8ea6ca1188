"""Holding an operation at a point while something is done to its server, and looking at how it ends."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence

from tests.crash.datastores import Keys
from tests.crash.look import Broken, look, rest_is_quiet
from tests.crash.matrix import settled
from tests.crash.quick_node import QuickNode, wait_for
from tests.crash.ways import WAYS, Way

FULL = os.environ.get("K3S_HA_AGENT_CRASH") == "full"
BY_NAME: Mapping[str, Way] = {way.name: way for way in WAYS}
FORWARD = BY_NAME["migrate forward"]
BACK = BY_NAME["migrate back"]


def some(everything: Sequence[str], *share: str) -> Sequence[str]:
    """All of it in ``make crash``, the share in ``make test``."""
    unknown = [name for name in share if name not in everything]
    assert not unknown, unknown
    return everything if FULL else share


MIGRATE_WINDOW = (
    *("close-gate", "stop-k3s", "seal-pre-image", "enable-etcd", "start-k3s", "prove", "hold-still", "commit"),
)
MIGRATE_AFTER = ("disarm-rescue", "retire-sqlite", "open-gate", "first-snapshot", "drop-old-quarantine")
MIGRATE = ("save-pre-image", "arm-rescue", *MIGRATE_WINDOW, *MIGRATE_AFTER)
UNDO = ("start-k3s", "enable-etcd", "seal-pre-image", "stop-k3s", "close-gate", "arm-rescue")
ROLLBACK_WINDOW = (
    *("close-gate", "stop-k3s", "disable-etcd", "retire-etcd", "restore-sqlite", "start-k3s", "prove", "hold-still"),
)
ROLLBACK_AFTER = ("disarm-rescue", "open-gate", "drop-old-quarantine")
ROLLBACK = ("check-pre-image", "arm-rescue", *ROLLBACK_WINDOW, "commit", *ROLLBACK_AFTER)
ROLLBACK_UNDO = ("start-k3s", "restore-sqlite", "retire-etcd", "disable-etcd", "stop-k3s", "close-gate", "arm-rescue")


class Scene:
    """One operation on a node."""

    def __init__(self, node: QuickNode, way: Way) -> None:
        self.node, self.way = node, way
        self.before: Keys = node.keys()
        self.operation: str | None = None

    @contextlib.contextmanager
    def held(self, point: str) -> Iterator[None]:
        """Start the agent and the operation; inside, the agent stands at the point."""
        self.node.trace.with_suffix(".go").unlink(missing_ok=True)
        earlier = {r["id"] for r in self.node.records()}
        self.node.start_agent(f"pause {point}")
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            # The agent may stand still before it has answered.
            asked = pool.submit(self.way.begin, self.node)
            reached = f"{point} PAUSED\n"
            wait_for(lambda: reached in self.node.trace_text() or _refused(asked), f"the agent is {point}")
            self.operation = next(r["id"] for r in self.node.records() if r["id"] not in earlier)
            try:
                yield
            finally:
                self.node.trace.with_suffix(".go").touch()

    def ended(self) -> str:
        """Wait for the end, however it comes; the outcome of the record."""
        wait_for(lambda: self.record()["phase"] == "finished" and settled_or_failed(self.node), "the operation ended")
        return str(self.record()["outcome"])

    def record(self) -> dict:  # type: ignore[type-arg]
        assert self.operation is not None
        return self.node.record(self.operation)

    def curtain(self, *allowed: str) -> str:
        """The end: one of the outcomes, and everything as it should be then."""
        outcome = self.ended()
        self.node.stop_agent()
        if outcome not in (allowed or ("succeeded", "rolled_back")):
            raise Broken(f"ended as {outcome}: {self.record()['reason']}")
        look(self.node, self.way, self.before, self.operation)
        rest_is_quiet(self.node)
        return outcome

    def loud(self) -> str:
        """It ended as a rollback that failed, and said so; the reason. The gate is closed."""
        outcome = self.ended()
        if outcome != "rollback_failed":
            raise Broken(f"ended as {outcome}, expected a loud failure")
        log = (self.node.root / "agent.log").read_text()
        if "FAILED and this server needs a person" not in log:
            raise Broken("a rollback failed and nobody was told")
        if not self.node.gate.exists():
            raise Broken("a rollback failed and the gate is open")
        return str(self.record()["reason"])

    def rescued(self) -> None:
        """What a person does after a loud failure, once its cause is gone: start the rescue. Then all is well."""
        if not self.node.fire_rescue():
            raise Broken("the rescue did not bring the node back")
        self.curtain("rolled_back")


def _refused(asked: concurrent.futures.Future[str | None]) -> bool:
    """Whether there was no operation; raises why."""
    return asked.done() and asked.result() is None


def settled_or_failed(node: QuickNode) -> bool:
    failed = {r["id"] for r in node.records() if r["outcome"] == "rollback_failed"}
    return settled(node, failed)


@contextlib.contextmanager
def scene(place, way: Way) -> Iterator[Scene]:  # type: ignore[no-untyped-def]
    with place.at(way) as node:
        yield Scene(node, way)
