"""Writes docs/interruptions.md out of the plans: ``python -m k3s_ha_agent.operations.interruptions``.

What each step says of itself, and what the resume table makes of an interruption there. A test
compares the page with what this writes, so that a new step cannot be forgotten.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator

from k3s_ha_agent.host.journald import JournalctlSource
from k3s_ha_agent.host.units import Units
from k3s_ha_agent.model import Kind, Operation, Phase, StepRecord, StepStatus
from k3s_ha_agent.operations.plan import Plan
from k3s_ha_agent.operations.planner import Planner
from k3s_ha_agent.operations.resume import Action, decide
from k3s_ha_agent.settings import Settings

_HEAD = """\
# Interruptions

Written from the plans by `python -m k3s_ha_agent.operations.interruptions`; do not edit.

For every step: what is on disk while it runs, what happens when the power fails there or the agent is killed there,
and what a person would do by hand if nothing of the agent were left. Whatever happens, first:
`systemctl start k3s-ha-agent` and wait; or, without the agent, `systemctl start k3s-ha-agent-rescue.service`. During
the window the gate keeps k3s from starting unless exactly one datastore is in place.

What is tested: death of the agent and of the rescue at every point and at every system call that changes a file; a disk
that fails, is full or read-only there; death of whole nodes, booted again (`make lab`); and failure of the power, at
every act of migrate and rollback, on a kernel with a disk of its own, where everything that was not synced is lost
(`tests/crash/power`). Not simulated: a disk that says it has written what it has not, and one that writes half a
sector.
"""

_WORDS = {
    Action.GO_ON: "goes on from this step",
    Action.ROLL_BACK: "rolls back: undoes this step and every one before it, last first",
    Action.FINISH: "goes on from this step; nothing is undone any more",
    Action.UNDO_ON: "undoes further",
    Action.NOTHING: "does nothing",
}


def page() -> str:
    """The whole page."""
    return _HEAD + "".join(_plan(title, plan) for title, plan in _plans())


def _plans() -> Iterator[tuple[str, Plan]]:
    settings = Settings()
    planner = Planner(settings, Units(), JournalctlSource())
    facts: dict[str, object] = {"api_port": 6443, "node_name": "n1", "timeout": 300.0, "sealed_sha256": ""}
    facts |= {"sealed": "/sealed.db", "target": "https://10.0.0.1:6443", "node_ip": "10.0.0.2"}
    for kind in (Kind.MIGRATE, Kind.ROLLBACK, Kind.JOIN):
        yield kind.value, planner.plan(Operation("example", kind, {}, "", (), facts=facts))
    facts |= {"undoes_kind": Kind.JOIN.value, "unit_file_state_before": "disabled"}
    yield "rollback of a join: the server leaves", planner.plan(Operation("x", Kind.ROLLBACK, {}, "", (), facts=facts))


def _plan(title: str, plan: Plan) -> str:
    text = f"\n## {title}\n"
    for number, step in enumerate(plan.steps):
        name = f"{step.name} (the point of commitment)" if step.name == plan.commitment else step.name
        text += f"\n### {number + 1}. {name}\n\n"
        text += f"- **On disk:** {step.on_disk}\n"
        text += f"- **Power fails here:** after the boot the agent {_WORDS[_decide(plan, number, 'another boot')]}.\n"
        text += f"- **The agent is killed here:** when it starts again it {_WORDS[_decide(plan, number, 'boot')]}.\n"
        text += f"- **By hand:** {step.by_hand}\n"
    return text


def _decide(plan: Plan, number: int, boot_id: str) -> Action:
    """What the resume table says of a plan cut off in its ``number``-th step."""
    records = [StepRecord(s.name, StepStatus.DONE) for s in plan.steps[:number]]
    records.append(StepRecord(plan.steps[number].name, StepStatus.DOING))
    records += [StepRecord(s.name) for s in plan.steps[number + 1 :]]
    operation = Operation("example", plan.kind, {}, "", tuple(records), phase=Phase.DOING, boot_id="boot")
    operation = dataclasses.replace(operation, committed=number > plan.index(plan.commitment))
    return decide(operation, plan, boot_id=boot_id, deadline_passed=False).action


if __name__ == "__main__":
    sys.stdout.write(page())
