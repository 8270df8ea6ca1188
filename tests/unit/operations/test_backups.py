"""Pre-images on disk: which are needed, whether they are whole, and what a removal leaves."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from k3s_ha_agent.errors import Conflict, LockHeld, NotFound, RecordUnreadable
from k3s_ha_agent.host.lock import acquire
from k3s_ha_agent.model import Kind, Operation, Outcome, Phase
from k3s_ha_agent.operations import backups, pre_image
from k3s_ha_agent.operations.journal import Journal
from k3s_ha_agent.operations.manager import OperationManager
from k3s_ha_agent.settings import Settings


def operation(
    number: int, kind: Kind = Kind.MIGRATE, outcome: Outcome | None = Outcome.SUCCEEDED, **facts: Any
) -> Operation:
    return Operation(
        id=f"op{number}",
        kind=kind,
        parameters={},
        created_at=f"2026-01-01T00:00:0{number}.000Z",
        steps=(),
        phase=Phase.FINISHED if outcome else Phase.DOING,
        outcome=outcome,
        committed=outcome is Outcome.SUCCEEDED,
        facts=facts,
    )


def make(state_dir: Path, operation_id: str) -> Path:
    directory = pre_image.directory(state_dir, operation_id)
    directory.mkdir(parents=True)
    (directory / pre_image.SEALED).write_bytes(b"sealed " * 100)
    pre_image.write_manifest(directory, {"k3s_version": "v1.22.2+k3s1"})
    return directory


ROLLBACK = Kind.ROLLBACK
BACK, FAILED = Outcome.ROLLED_BACK, Outcome.ROLLBACK_FAILED


@pytest.mark.parametrize(
    ("operations", "kept"),
    [
        ([], set()),
        ([operation(1)], {"op1"}),
        ([operation(1), operation(2, outcome=BACK)], {"op1"}),
        ([operation(1, outcome=BACK), operation(2)], {"op2"}),
        ([operation(1), operation(2, ROLLBACK)], set()),
        ([operation(1), operation(2, ROLLBACK), operation(3)], {"op3"}),
        ([operation(1, outcome=None)], {"op1"}),
        ([operation(1, outcome=FAILED), operation(2, outcome=BACK)], {"op1"}),
        ([operation(1), operation(2, ROLLBACK, None, undoes="op1")], {"op1", "op2"}),
        ([operation(1), operation(2, ROLLBACK, FAILED, undoes="op1")], {"op1", "op2"}),
        ([operation(1, backup="/elsewhere/opX")], {"op1", "opX"}),
    ],
    ids=lambda value: "-".join(sorted(value)) if isinstance(value, set) else f"{len(value)} operations",
)
def test_what_is_needed(operations: list[Operation], kept: set[str]) -> None:
    assert backups.needed(operations) == kept


def test_one_is_shown_and_verified(tmp_path: Path) -> None:
    directory = make(tmp_path, "op1")
    shown = backups.one(tmp_path, [operation(1)], "op1", verify=False)
    assert (shown["verified"], shown["problem"], shown["needed"], shown["sealed"]) == (None, None, True, True)
    assert backups.one(tmp_path, [], "op1", verify=True)["verified"] is True
    (directory / pre_image.SEALED).write_bytes(b"sealed " * 99 + b"altered")
    damaged = backups.one(tmp_path, [], "op1", verify=True)
    assert damaged["verified"] is False and "sealed.db" in damaged["problem"]


@pytest.mark.parametrize("name", ["op2", "..", ".", "", "op1/..", "/etc"])
def test_names_lead_nowhere_else(name: str, tmp_path: Path) -> None:
    make(tmp_path, "op1")
    for ask in (lambda: backups.one(tmp_path, [], name, verify=False), lambda: backups.remove(tmp_path, [], name)):
        with pytest.raises(NotFound):
            ask()
    assert (tmp_path / "backups/op1/manifest.json").exists()


def test_removal(tmp_path: Path) -> None:
    for name in ("op1", "op2"):
        make(tmp_path, name)
    operations = [operation(1, outcome=BACK), operation(2)]
    with pytest.raises(Conflict, match="op2"):
        backups.remove(tmp_path, operations, "op2")
    assert backups.remove(tmp_path, operations, "op1")["operation"] == "op1"
    assert [p.name for p in (tmp_path / "backups").iterdir()] == ["op2"]


def test_an_interrupted_removal_is_not_shown_and_ends_with_the_next(tmp_path: Path) -> None:
    for name in ("op1", "op2"):
        make(tmp_path, name)
    (tmp_path / "backups/op1").rename(tmp_path / "backups" / f"{backups.REMOVED}op1")
    assert [b["operation"] for b in backups.listed(tmp_path, [])] == ["op2"]
    backups.remove(tmp_path, [], "op2")
    assert list((tmp_path / "backups").iterdir()) == []


class Nothing:
    """Stands where the planner and the inspector stand: what has finished needs neither."""

    def plan(self, operation: Operation) -> None:
        return None


async def no_rescue(operation: Operation) -> None:
    raise AssertionError("nothing here needs the rescue")


async def loaded(state_dir: Path, *operations: Operation) -> OperationManager:
    journal = Journal(state_dir)
    journal.prepare()
    for each in operations:
        journal.save(each)
        make(state_dir, each.id)
    settings = dataclasses.replace(Settings(), state_dir=state_dir)
    return OperationManager(settings, Nothing(), Nothing(), hand_over=no_rescue)  # type: ignore[arg-type]


async def test_the_manager_removes_only_with_the_lock(tmp_path: Path) -> None:
    manager = await loaded(tmp_path, operation(1, outcome=BACK), operation(2))
    assert await manager.load() == []
    held = await acquire(tmp_path / "lock", "rescue", 0.0)
    with pytest.raises(LockHeld):
        await manager.remove_backup("op1")
    held.release()
    assert (await manager.remove_backup("op1"))["operation"] == "op1"
    assert [b["operation"] for b in await manager.backups()] == ["op2"]
    with pytest.raises(Conflict):
        await manager.remove_backup("op2")
    # The lock and the mark are let go again.
    (await acquire(tmp_path / "lock", "test", 0.0)).release()
    assert (await manager.backup("op2", verify=True))["verified"] is True


async def test_nothing_is_removed_when_a_record_cannot_be_read(tmp_path: Path) -> None:
    manager = await loaded(tmp_path, operation(1, outcome=BACK))
    Journal(tmp_path).record_path("op1").write_text("{")
    await manager.load()
    with pytest.raises(RecordUnreadable):
        await manager.remove_backup("op1")
    assert (tmp_path / "backups/op1").exists()
