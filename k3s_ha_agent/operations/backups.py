"""Looking after the pre-images on disk: which are needed, are they whole, and removing the others."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from k3s_ha_agent import durable
from k3s_ha_agent.errors import Conflict, NotFound, StepFailed
from k3s_ha_agent.model import Operation, Outcome
from k3s_ha_agent.operations import pre_image
from k3s_ha_agent.operations.history import last_commitment, list_backups

REMOVED = ".removed-"
"""What is being removed has this before its name: a removal that was interrupted leaves no half pre-image
under the name of a whole one."""


def needed(operations: Sequence[Operation]) -> frozenset[str]:
    """The operations whose pre-images something could still be brought back from.

    That of what a rollback would undo, and those of operations that have not ended or whose
    rollback failed: the rescue may need them.
    """
    kept = {o.id for o in operations if o.outcome in (None, Outcome.ROLLBACK_FAILED)}
    committed = last_commitment(operations)
    if committed is not None:
        kept |= {committed.id, Path(str(committed.facts.get("backup", committed.id))).name}
    # A rollback that has not ended works with the pre-image of what it undoes.
    kept |= {str(o.facts["undoes"]) for o in operations if o.id in kept and "undoes" in o.facts}
    return frozenset(kept)


def listed(state_dir: Path, operations: Sequence[Operation]) -> list[dict[str, Any]]:
    """Every pre-image, newest first, each with whether it is ``needed``. Blocks."""
    keep = needed(operations)
    found = list_backups(state_dir, operations)
    return [{**b, "needed": b["operation"] in keep} for b in found if not b["operation"].startswith(REMOVED)]


def one(state_dir: Path, operations: Sequence[Operation], operation_id: str, *, verify: bool) -> dict[str, Any]:
    """One pre-image; with ``verify`` every file of it is read and compared with its manifest.

    ``verified`` is None when that was not asked for; ``problem`` says what is wrong with it. NotFound
    when there is none. Blocks.
    """
    backup = _find(listed(state_dir, operations), operation_id)
    backup |= {"verified": None, "problem": None}
    if verify:
        try:
            pre_image.verify(pre_image.directory(state_dir, operation_id))
        except StepFailed as error:
            return backup | {"verified": False, "problem": error.detail}
        backup["verified"] = True
    return backup


def remove(state_dir: Path, operations: Sequence[Operation], operation_id: str) -> dict[str, Any]:
    """Remove a pre-image that is not needed, durably; what it was is returned.

    NotFound when there is none, Conflict when it is needed. Blocks.
    """
    backup = _find(listed(state_dir, operations), operation_id)
    if backup["needed"]:
        raise Conflict(
            f"The pre-image of {operation_id} is what a rollback or the rescue would put back; it is kept.",
            next_step="It may go once it is not needed any more: after the rollback, or after the next operation.",
        )
    path = pre_image.directory(state_dir, operation_id)
    for left in path.parent.glob(f"{REMOVED}*"):
        shutil.rmtree(left)
    doomed = path.with_name(f"{REMOVED}{operation_id}")
    durable.rename(path, doomed)
    shutil.rmtree(doomed)
    durable.sync_directory(doomed.parent)
    return backup


def _find(backups: Sequence[Mapping[str, Any]], operation_id: str) -> dict[str, Any]:
    # Looked up among the names that are there, so that no id leads out of the directory.
    for backup in backups:
        if backup["operation"] == operation_id:
            return dict(backup)
    raise NotFound(f"There is no pre-image of {operation_id!r}.", next_step="See: k3s-ha-agentctl backups list")
