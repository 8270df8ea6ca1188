"""``unfinished``, by which the packages decide, knows what the agent's own resume table knows."""

from __future__ import annotations

import itertools
import json
import runpy
from pathlib import Path

import pytest

from k3s_ha_agent.model import Kind, Operation, Outcome, Phase, StepRecord, StepStatus
from k3s_ha_agent.operations.journal import Journal
from k3s_ha_agent.operations.plan import Plan, Run
from k3s_ha_agent.operations.resume import Action, decide
from tests.packaging.build import CHECKOUT, run

SCRIPT = CHECKOUT / "packaging/lib/unfinished"


class _Step:
    name = "stop-k3s"
    resumable = True
    on_disk = by_hand = ""

    async def do(self, run: Run) -> None: ...

    async def verify(self, run: Run) -> None: ...

    async def undo(self, run: Run) -> None: ...


PLAN = Plan(Kind.MIGRATE, (_Step(),), "stop-k3s")


def operation(**changes: object) -> Operation:
    values = {"steps": (StepRecord("stop-k3s", StepStatus.DOING),), "boot_id": "this", **changes}
    return Operation(id="m1", kind=Kind.MIGRATE, parameters={}, created_at="2026-01-01T00:00:00Z", **values)  # type: ignore[arg-type]


def unfinished(for_what: str, state_dir: Path, systemd_dir: Path | None = None) -> list[str]:
    """What it says; exit status and output must agree."""
    done = run([str(SCRIPT), for_what, str(state_dir), str(systemd_dir or state_dir)], check=False)
    assert done.returncode in (0, 1), done.stderr
    assert done.returncode == bool(done.stdout)
    return done.stdout.splitlines()


def test_it_agrees_with_the_resume_table(tmp_path: Path) -> None:
    """Whatever a record says: what the agent would go on with is unfinished. (That many are judged in this process.)"""
    program = runpy.run_path(str(SCRIPT))
    judged = 0
    for phase, outcome, committed, status in itertools.product(Phase, (None, *Outcome), (False, True), StepStatus):
        made = operation(phase=phase, outcome=outcome, committed=committed, steps=(StepRecord("stop-k3s", status),))
        Journal(tmp_path).save(made)
        decision = decide(made, PLAN, boot_id="this", deadline_passed=False)
        # An operation without an outcome has not ended, whatever else stands in the record.
        expected = decision.action is not Action.NOTHING or outcome is None
        assert bool(program["reasons"]("upgrade", tmp_path, tmp_path)) == expected, made
        judged += expected
    assert judged > 50


def test_nothing_was_ever_done(tmp_path: Path) -> None:
    assert unfinished("upgrade", tmp_path) == []
    assert unfinished("removal", tmp_path) == []


def test_one_of_several(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.save(operation(phase=Phase.FINISHED, outcome=Outcome.ROLLED_BACK))
    path = journal.record_path("m0")
    path.parent.mkdir()
    path.write_text(json.dumps({**json.loads(journal.record_path("m1").read_text()), "id": "m0", "outcome": None}))
    assert unfinished("upgrade", tmp_path) == ["The migrate m0 has not ended."]


def test_a_failed_rollback_needs_the_rescue_but_not_the_old_process(tmp_path: Path) -> None:
    Journal(tmp_path).save(operation(phase=Phase.FINISHED, outcome=Outcome.ROLLBACK_FAILED))
    assert unfinished("upgrade", tmp_path) == []
    assert "could not be rolled back" in unfinished("removal", tmp_path)[0]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 1}', '{"format": 2}'])
def test_what_cannot_be_read_is_not_finished(tmp_path: Path, text: str) -> None:
    path = Journal(tmp_path).record_path("m1")
    path.parent.mkdir(parents=True)
    path.write_text(text)
    for for_what in ("upgrade", "removal"):
        assert str(path) in unfinished(for_what, tmp_path)[0]


def test_a_closed_gate_holds_the_removal_up(tmp_path: Path) -> None:
    gate = tmp_path / "systemd/k3s-prod.service.d/zz-k3s-ha-agent-gate.conf"
    gate.parent.mkdir(parents=True)
    gate.touch()
    assert unfinished("upgrade", tmp_path, tmp_path / "systemd") == []
    assert str(gate) in unfinished("removal", tmp_path, tmp_path / "systemd")[0]


def test_it_says_how_it_is_called() -> None:
    for arguments in ([], ["purge"], ["upgrade", "a", "b", "c"]):
        assert run([str(SCRIPT), *arguments], check=False).returncode == 2


def test_it_knows_the_names_of_the_agent() -> None:
    from k3s_ha_agent import model, settings

    text = SCRIPT.read_text()
    assert f"FORMAT = {model.FORMAT}" in text
    assert f'STATE_DIR = Path("{settings.Settings().state_dir}")' in text
    assert f'SYSTEMD_DIR = Path("{settings.Settings().systemd_dir}")' in text
    assert f'GATE = "{settings.GATE}"' in text
