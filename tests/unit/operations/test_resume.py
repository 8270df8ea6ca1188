"""Every row of the resume table."""

from __future__ import annotations

import dataclasses

import pytest

from k3s_ha_agent.model import Kind, Operation, Outcome, Phase, StepRecord, StepStatus
from k3s_ha_agent.operations.plan import Plan
from k3s_ha_agent.operations.resume import Action, decide

from .test_engine import Act, Tape

HERE, OTHER = "this-boot", "another-boot"


def operation(first: StepStatus, **changes: object) -> Operation:
    base = Operation(
        "op1",
        Kind.MIGRATE,
        {},
        "2026-01-01T00:00:00.000Z",
        (StepRecord("a", first), StepRecord("c")),
        boot_id=HERE,
    )
    return dataclasses.replace(base, **changes)  # type: ignore[arg-type]


DOING, DONE, PENDING, FAILED = StepStatus.DOING, StepStatus.DONE, StepStatus.PENDING, StepStatus.FAILED
ROWS = [
    # record, boot, deadline passed, resumable, what to do
    (operation(DOING), HERE, False, True, Action.GO_ON),
    (operation(PENDING), HERE, False, False, Action.GO_ON),
    (operation(DONE), HERE, False, False, Action.GO_ON),
    (operation(DOING), HERE, False, False, Action.ROLL_BACK),
    (operation(DOING), OTHER, False, True, Action.ROLL_BACK),
    (operation(PENDING), OTHER, False, True, Action.ROLL_BACK),
    (operation(DOING), HERE, True, True, Action.ROLL_BACK),
    (operation(DOING, abort_requested=True), HERE, False, True, Action.ROLL_BACK),
    (operation(FAILED), HERE, False, True, Action.ROLL_BACK),
    (operation(DOING, phase=Phase.UNDOING), HERE, False, True, Action.UNDO_ON),
    (operation(DOING, phase=Phase.UNDOING), OTHER, True, True, Action.UNDO_ON),
    (operation(DONE, committed=True), OTHER, True, True, Action.FINISH),
    (
        operation(FAILED, committed=True, phase=Phase.FINISHED, outcome=Outcome.SUCCEEDED),
        HERE,
        False,
        True,
        Action.FINISH,
    ),
    (operation(DONE, phase=Phase.FINISHED, outcome=Outcome.ROLLED_BACK), OTHER, True, True, Action.NOTHING),
    (operation(FAILED, phase=Phase.FINISHED, outcome=Outcome.ROLLBACK_FAILED), HERE, False, True, Action.NOTHING),
]


@pytest.mark.parametrize(("record", "boot", "passed", "resumable", "action"), ROWS)
def test_row(record: Operation, boot: str, passed: bool, resumable: bool, action: Action) -> None:
    tape = Tape()
    plan = Plan(Kind.MIGRATE, (Act("a", tape, resumable=resumable), Act("c", tape)), "c")
    decision = decide(record, plan, boot_id=boot, deadline_passed=passed)
    assert decision.action is action
    assert decision.sentence.startswith("migrate op1 ")


def test_all_done_and_finished_is_left_alone() -> None:
    tape = Tape()
    record = operation(DONE, committed=True, phase=Phase.FINISHED, outcome=Outcome.SUCCEEDED)
    record = dataclasses.replace(record, steps=(StepRecord("a", DONE), StepRecord("c", DONE)))
    plan = Plan(Kind.MIGRATE, (Act("a", tape), Act("c", tape)), "c")
    assert decide(record, plan, boot_id=OTHER, deadline_passed=True).action is Action.NOTHING


def test_record_of_another_version_goes_back() -> None:
    """A step that this version does not have cannot be gone on with, and what it has can be undone."""
    tape = Tape()
    record = dataclasses.replace(operation(DONE), steps=(StepRecord("a", DONE), StepRecord("gone"), StepRecord("c")))
    plan = Plan(Kind.MIGRATE, (Act("a", tape), Act("c", tape)), "c")
    assert decide(record, plan, boot_id=HERE, deadline_passed=False).action is Action.ROLL_BACK
