"""The ways an operation can go: forward, or back because of a fault.

A new plan needs two entries here, one that succeeds and one that is rolled back (test_matrix.py holds that), and
nothing else: the points of a way are learnt by walking it, not listed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from tests.crash.quick_node import QuickNode

PATIENT: Mapping[str, object] = {"timeout": "10m"}
DISCARD: Mapping[str, object] = {"writes": "discard", "confirm_lost_writes": True}


@dataclasses.dataclass(frozen=True, slots=True)
class Way:
    """An operation and how it is to end when nobody kills the agent."""

    name: str
    kind: str
    begins_on: str
    """The datastore the node is on when it begins, ``sqlite`` or ``etcd``; the other one after a success."""
    ends: str
    body: Mapping[str, object] = dataclasses.field(default_factory=dict)
    faults: Mapping[str, object] = dataclasses.field(default_factory=dict)
    """Of the stand-in, from the beginning of the operation to its end."""

    def __str__(self) -> str:
        return self.name

    def begin(self, node: QuickNode) -> str | None:
        """None: the agent died over the request."""
        node.change_faults(self.faults)
        return node.begin(self.kind, {**PATIENT, **self.body})

    def ask(self, node: QuickNode) -> int:
        """Like ``begin``, but it may be refused; the HTTP status."""
        node.change_faults(self.faults)
        return node.api("POST", f"/v1/{self.kind}", {**PATIENT, **self.body})[0]

    def on_etcd_after(self, outcome: str) -> bool:
        return (self.begins_on == "etcd") != (outcome == "succeeded")


WAYS: tuple[Way, ...] = (
    Way("migrate forward", "migrate", "sqlite", "succeeded"),
    Way("migrate back", "migrate", "sqlite", "rolled_back", faults={"skip_key_number": 200}),
    Way("rollback forward", "rollback", "etcd", "succeeded", DISCARD),
    Way("rollback back", "rollback", "etcd", "rolled_back", DISCARD, faults={"exit_at": "sqlite-open"}),
)


def bring(node: QuickNode, begins_on: str) -> None:
    """Bring the node to the datastore a way begins on, by an operation that nobody disturbs."""
    node.change_faults({})
    if node.on_etcd() == (begins_on == "etcd"):
        return
    node.start_agent()
    kind, body = ("migrate", {}) if begins_on == "etcd" else ("rollback", DISCARD)
    ended = node.finish(node.begin(kind, {**PATIENT, **body}))
    assert ended["outcome"] == "succeeded", ended
    node.stop_agent()
    node.trace.unlink()
