"""The power fails: what was not synced is gone (``power/machine.py``). Then the server boots, the agent before k3s.

A share of the points here, all acts by ``make crash``.
"""

from __future__ import annotations

import json

import pytest

from tests.crash.power.machine import answer, machine
from tests.crash.scenes import FULL, MIGRATE, ROLLBACK, ROLLBACK_UNDO, UNDO

POINTS = [
    (way, f"{when} {act} {step}")
    for way, act, steps in (
        ("migrate forward", "do", MIGRATE),
        ("migrate back", "undo", UNDO),
        ("rollback forward", "do", ROLLBACK),
        ("rollback back", "undo", ROLLBACK_UNDO),
    )
    for step in steps
    for when in ("before", "after")
]
SHARE = [
    ("migrate forward", "after do enable-etcd"),
    ("migrate forward", "after do retire-sqlite"),
    ("rollback forward", "after do restore-sqlite"),
]


def test_the_machine_loses_what_was_not_synced() -> None:
    """What these tests rely on: only what was synced is there after a cut."""
    with machine() as it:
        it.run("write", until="CUT")
        whole = json.loads(answer(it.run("read")))
        assert whole == {"synced": True, "not-synced": False, "renamed": False}


@pytest.mark.parametrize(("way", "point"), POINTS if FULL else SHARE)
def test_the_power_fails(way: str, point: str) -> None:
    with machine() as it:
        it.run("begin", way, point, until="CUT")
        outcome, recorded, committed = json.loads(answer(it.run("look", way)))
        assert recorded, "the operation was promised, and its record is lost"
        assert outcome == ("succeeded" if committed else "rolled_back")
