"""Random deaths of the agent, gone on by the agent, the rescue or a reboot: a few rounds here, 200 by ``make soak``."""

from __future__ import annotations

import collections
import os
import random

import pytest

from tests.crash.matrix import AFTERWARDS, Death, learn, station, walk
from tests.crash.ways import WAYS

ROUNDS = int(os.environ.get("K3S_HA_AGENT_SOAK_ROUNDS", "6"))


@pytest.mark.timeout(0)
def test_soak() -> None:
    """The seed is printed; K3S_HA_AGENT_SOAK_SEED repeats a run."""
    seed = int(os.environ.get("K3S_HA_AGENT_SOAK_SEED", random.randrange(1_000_000)))
    dice = random.Random(seed)
    outcomes: collections.Counter[str] = collections.Counter()
    hits = 0
    print(f"seed {seed}, {ROUNDS} rounds")
    with station() as place:
        points = {way.name: learn(place, way) for way in WAYS}
        for _ in range(ROUNDS):
            way = dice.choice(WAYS)
            number = dice.randrange(1, len(points[way.name]) + 1)
            afterwards = dice.choice(AFTERWARDS)
            second = dice.randrange(3, 40) if afterwards == "agent" and dice.random() < 0.5 else None
            result = walk(place, Death(way, points[way.name][number - 1], number, afterwards, second))
            outcomes[f"{way.name}, then {afterwards}: {result.outcome}"] += 1
            hits += result.hit
    for what, count in sorted(outcomes.items()):
        print(f"{count:4} {what}")
    print(f"{hits} of {ROUNDS} deaths hit")
    assert hits == ROUNDS, f"seed {seed}"
