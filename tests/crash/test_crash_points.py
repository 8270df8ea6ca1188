"""The agent killed at the points of every plan; a share of the matrix here, all of it by ``make crash``."""

from __future__ import annotations

import os

import pytest

from tests.crash.matrix import AFTERWARDS
from tests.crash.run import Report, Scope, run, table

FULL = os.environ.get("K3S_HA_AGENT_CRASH") == "full"


@pytest.fixture(scope="module")
def report() -> Report:
    """Relays hit every act of every plan once; of the single deaths a share is walked, the same in every run."""
    scope = Scope() if FULL else Scope(afterwards=AFTERWARDS, share=16, records=4)
    found = run(scope)
    print(table(found))
    return found


@pytest.mark.timeout(7200)
def test_the_promise_holds_at_every_point(report: Report) -> None:
    assert not report.broken, "\n\n".join(report.broken)


def test_as_many_interruptions_hit_as_were_planned(report: Report) -> None:
    assert report.planned
    assert report.hit == len(report.planned)
