"""Random blows at an operation, alone and together: a few rounds here, 200 by ``make soak``.

    K3S_HA_AGENT_SOAK_ROUNDS    how many (6)
    K3S_HA_AGENT_SOAK_SEED      repeats the dice of a run; it is printed
    K3S_HA_AGENT_SOAK_FIRST     number of the first round (1): to see one of them again

After each round: exactly one proven datastore, every acknowledged row in it, nothing left over, and the outcome is
``succeeded`` only when that datastore is the new one with all there was (tests/crash/soak.py).
"""

from __future__ import annotations

import collections
import os
import random
import time
import traceback
from collections.abc import Iterable

import pytest

from tests.crash.matrix import station
from tests.crash.soak import BLOWS, Ended, Round, play, throw

ROUNDS = int(os.environ.get("K3S_HA_AGENT_SOAK_ROUNDS", "6"))
FIRST = int(os.environ.get("K3S_HA_AGENT_SOAK_FIRST", "1"))
NEW_NODE = 20
"""Rounds on one node: rows add up, and copies get longer."""
QUIET = 4
"""One of so many rounds is followed by a look whether a further start, and a late rescue, change nothing."""
OUTCOMES = ("succeeded", "rolled_back")


@pytest.mark.timeout(0)
def test_soak() -> None:
    seed = int(os.environ.get("K3S_HA_AGENT_SOAK_SEED", random.randrange(1_000_000)))
    print(f"seed {seed}, {ROUNDS} rounds", flush=True)
    began, played, broken = time.monotonic(), [], []
    with station() as place:
        for number in range(FIRST, FIRST + ROUNDS):
            dice = random.Random(f"{seed} {number}")
            this = throw(dice)
            try:
                ended = play(place, this, str(number), quiet=dice.randrange(QUIET) == 0)
            except Exception as error:  # told below, and the run fails
                again = f"K3S_HA_AGENT_SOAK_SEED={seed} K3S_HA_AGENT_SOAK_FIRST={number} K3S_HA_AGENT_SOAK_ROUNDS=1"
                broken.append(f"{again}: {this}\n{''.join(traceback.format_exception(error)[-3:])}")
                print(f"BROKEN round {number}: {this}: {error}", flush=True)
                continue
            played.append((this, ended))
            print(f"{number:4} {this}: {ended.outcome}, hit {len(ended.hit)}, {ended.rows} rows", flush=True)
            if number % NEW_NODE == 0:
                place.close()
    print(table(played))
    print(f"{len(played)} rounds, {len(broken)} promises broken, {time.monotonic() - began:.0f} s, seed {seed}")
    assert not broken, "\n\n".join(broken)
    hit = collections.Counter(what for _, ended in played for what in ended.hit)
    assert hit, f"nothing was hit; seed {seed}"
    if ROUNDS >= 100:  # in fewer the dice may be unkind
        assert hit.keys() == BLOWS.keys(), f"never hit: {BLOWS.keys() - hit.keys()}; seed {seed}"
        assert hit.total() * 2 >= sum(len(this.blows) for this, _ in played), f"only {hit.total()} hit; seed {seed}"


def table(played: Iterable[tuple[Round, Ended]]) -> str:
    """What happened, how often it was planned, how often it hit, and how the operations ended it hit."""
    planned, hit = collections.Counter[str](), collections.Counter[str]()
    outcomes, ways = collections.Counter[tuple[str, str]](), collections.Counter[tuple[str, str]]()
    rows = 0
    for this, ended in played:
        planned.update(blow.what for blow in this.blows)
        hit.update(ended.hit)
        outcomes.update((what, ended.outcome) for what in set(ended.hit) or {"nothing"})
        ways[this.way.name, ended.outcome] += 1
        rows += ended.rows
    head = f"{'':32} {'planned':>8} {'hit':>5}" + "".join(f" {o:>12}" for o in OUTCOMES)
    lines = [head]
    for what in (*BLOWS, "nothing"):
        counts = "".join(f" {outcomes[what, o]:12}" for o in OUTCOMES)
        lines.append(f"{what:32} {planned[what] or '':>8} {hit[what] or '':>5}{counts}")
    lines += [f"{way:46}" + "".join(f" {ways[way, o]:12}" for o in OUTCOMES) for way in sorted({w for w, _ in ways})]
    lines.append(f"{rows} rows acknowledged meanwhile")
    return "\n".join(lines)
