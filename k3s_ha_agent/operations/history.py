"""What the records and pre-images of the past say."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from k3s_ha_agent.model import Kind, Operation, Outcome
from k3s_ha_agent.operations import pre_image


def last_commitment(operations: Sequence[Operation]) -> Operation | None:
    """What this server committed last and has not rolled back since: what a rollback would undo."""
    for operation in sorted(operations, key=lambda o: (o.created_at, o.id), reverse=True):
        if operation.outcome is Outcome.SUCCEEDED:
            return None if operation.kind is Kind.ROLLBACK else operation
    return None


def last_migration(operations: Sequence[Operation]) -> Operation | None:
    """The committed migration a rollback would undo."""
    found = last_commitment(operations)
    return found if found is not None and found.kind is Kind.MIGRATE else None


def list_backups(state_dir: Path, operations: Sequence[Operation]) -> list[dict[str, Any]]:
    """The pre-images on disk, newest first. Sizes in bytes; nothing of their content."""
    known = {operation.id: operation for operation in operations}
    directory = state_dir / "backups"
    if not directory.is_dir():
        return []
    found = []
    for entry in sorted(directory.iterdir(), reverse=True):
        operation = known.get(entry.name)
        found.append(
            {
                "operation": entry.name,
                "path": str(entry),
                "sealed": (entry / pre_image.SEALED).exists(),
                "bytes": sum(p.stat().st_size for p in entry.rglob("*") if p.is_file() and not p.is_symlink()),
                "created_at": operation.created_at if operation else None,
                "outcome": operation.outcome.value if operation and operation.outcome else None,
                "k3s_version": _about(entry).get("k3s_version"),
            }
        )
    return found


def _about(backup: Path) -> dict[str, Any]:
    try:
        about = json.loads((backup / pre_image.MANIFEST).read_bytes())["about"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return about if isinstance(about, dict) else {}
