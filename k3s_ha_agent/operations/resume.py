"""What to do with an operation that an agent finds unfinished: one table.

The rule behind it: past the commitment everything goes forward, before it unknown means back. Only
steps that say so may be run again, and only within the boot in which they began; an operation that
was being undone is undone further.
"""

from __future__ import annotations

import dataclasses
import enum

from k3s_ha_agent.model import Operation, Outcome, Phase, StepStatus
from k3s_ha_agent.operations.plan import Plan


class Action(enum.StrEnum):
    NOTHING = "nothing"
    GO_ON = "go-on"
    ROLL_BACK = "roll-back"
    UNDO_ON = "undo-on"
    FINISH = "finish"


@dataclasses.dataclass(frozen=True, slots=True)
class Decision:
    action: Action
    sentence: str
    """For the log: what was decided and why."""


def current_step(operation: Operation) -> str | None:
    """The first step that is not done, None when all are."""
    for record in operation.steps:
        if record.status is not StepStatus.DONE:
            return record.name
    return None


def decide(
    operation: Operation, plan: Plan, *, boot_id: str, deadline_passed: bool, interference: str = ""
) -> Decision:
    """The row of the table that fits the record.

    ``interference``: words for what others did meanwhile that forbids going on ("lost its gate").
    """
    name = f"{operation.kind} {operation.id}"
    step_name = current_step(operation)
    if operation.outcome is not None and operation.outcome is not Outcome.SUCCEEDED:
        return Decision(Action.NOTHING, f"{name} ended as {operation.outcome}; nothing is left to do.")
    if operation.committed:
        if step_name is None and operation.phase is Phase.FINISHED:
            return Decision(Action.NOTHING, f"{name} ended as {operation.outcome}; nothing is left to do.")
        return Decision(Action.FINISH, f"{name} was committed but not tidied up; finishing from {step_name}.")
    if operation.phase is Phase.UNDOING:
        return Decision(Action.UNDO_ON, f"{name} was being undone when the agent stopped; undoing further.")
    begun = step_name is not None and operation.step(step_name).status is StepStatus.DOING
    if begun and step_name == plan.no_way_back:
        return Decision(Action.GO_ON, f"{name} was cut off in {step_name}, which can only be finished; going on.")
    if operation.abort_requested:
        return Decision(Action.ROLL_BACK, f"{name} was to be aborted when the agent stopped; rolling back.")
    if operation.boot_id != boot_id:
        return Decision(Action.ROLL_BACK, f"{name} was cut off by a reboot before its commitment; rolling back.")
    if deadline_passed:
        return Decision(Action.ROLL_BACK, f"{name} is past its deadline; rolling back.")
    if interference:
        return Decision(Action.ROLL_BACK, f"{name} {interference}; rolling back.")
    if step_name is None:
        return Decision(Action.ROLL_BACK, f"{name} has no step left and no commitment; rolling back.")
    if [record.name for record in operation.steps] != [step.name for step in plan.steps]:
        return Decision(Action.ROLL_BACK, f"{name} was begun by another version of this agent; rolling back.")
    record = operation.step(step_name)
    if record.status not in (StepStatus.PENDING, StepStatus.DOING):
        return Decision(Action.ROLL_BACK, f"{name} had failed in {step_name}; rolling back.")
    step = plan.steps[plan.index(step_name)]
    if record.status is StepStatus.DOING and not step.resumable:
        return Decision(Action.ROLL_BACK, f"{name} was cut off in {step_name}, which cannot be resumed; rolling back.")
    return Decision(Action.GO_ON, f"{name} was cut off at {step_name}; going on from there.")
