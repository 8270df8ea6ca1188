"""Stopping on request: an operation aborted, and the agent told to stop, in each step of each plan."""

from __future__ import annotations

import signal
import threading

import pytest

from tests.crash.look import Broken
from tests.crash.matrix import Station, learn, relay
from tests.crash.scenes import BY_NAME, FULL, MIGRATE, ROLLBACK_WINDOW, scene

ABORTS = [("migrate forward", step) for step in MIGRATE] + [("rollback forward", step) for step in ROLLBACK_WINDOW]
SHARE = [
    ("migrate forward", "save-pre-image"),
    ("migrate forward", "start-k3s"),
    ("migrate forward", "commit"),
    ("migrate forward", "retire-sqlite"),
    ("rollback forward", "restore-sqlite"),
]


@pytest.mark.parametrize(("way", "step"), ABORTS if FULL else SHARE)
def test_aborted(place: Station, way: str, step: str) -> None:
    """Before the commitment it goes back, wherever it is; after it the abort is refused and nothing is undone."""
    with scene(place, BY_NAME[way]) as play:
        answers: list[tuple[int, dict[str, object]]] = []
        with play.held(f"before do {step}"):
            path = f"/v1/operations/{play.operation}/abort"
            asking = threading.Thread(target=lambda: answers.append(play.node.api("POST", path)))
            asking.start()  # its answer comes when the event loop turns again
        asking.join(60)
        outcome = play.curtain()
        status, body = answers[0]
        if status == 202 and outcome != "rolled_back":
            raise Broken("an abort was accepted, and nothing was undone")
        if status != 202:
            assert (status, outcome) == (409, "succeeded"), body
        assert status == (409 if step in MIGRATE[-5:] else 202) or step == "commit", (step, body)


@pytest.mark.parametrize("way", ["migrate forward", "rollback forward"] + (["migrate back", "rollback back"] * FULL))
@pytest.mark.timeout(1200)
def test_told_to_stop_in_each_step(place: Station, way: str) -> None:
    """SIGTERM is later, never a rollback: the agent ends in order, and the next one goes on where it was."""
    acts = {point for point in learn(place, BY_NAME[way]) if point.startswith(("before do", "before undo"))}
    results = relay(place, BY_NAME[way], acts, signal.SIGTERM)
    missed = [r.point for r in results if not r.hit]
    assert not missed
