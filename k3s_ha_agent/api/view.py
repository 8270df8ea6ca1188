"""What of the agent's values is shown to callers: an allow-list per class.

A field that is not named here is not shown, so that a new one stays inside until somebody decided
otherwise; a class that is not named cannot be shown at all.
"""

from __future__ import annotations

import dataclasses
import enum
import re
from collections.abc import Mapping
from typing import Any

from k3s_ha_agent.model import (
    CheckResult,
    ClusterMember,
    ClusterView,
    Event,
    Evidence,
    NodeState,
    Operation,
    Progress,
    Quorum,
    StepRecord,
)

SHOWN: Mapping[type, tuple[str, ...]] = {
    Operation: (
        "id",
        "kind",
        "phase",
        "outcome",
        "committed",
        "reason",
        "created_at",
        "finished_at",
        "deadline",
        "steps",
        "evidence",
        "failed_evidence",
        "parameters",
        "facts",
        "requested_by",
        "abort_requested",
        "finished_by",
        "boot_id",
    ),
    ClusterView: ("members", "quorum", "alarms", "sentence"),
    ClusterMember: ("id", "name", "node", "address", "voter", "learner", "leader", "answers", "healthy"),
    Quorum: ("voters", "needed", "tolerates", "up"),
    StepRecord: ("name", "status", "started_at", "finished_at", "error", "progress"),
    Progress: ("done", "total", "unit"),
    Evidence: ("name", "ok", "value", "needed"),
    CheckResult: ("name", "status", "found", "needs", "remedy"),
    Event: ("id", "time", "type", "data"),
    NodeState: (
        "unit",
        "unit_active_state",
        "k3s_version",
        "node_name",
        "node_ready",
        "roles",
        "api_ready",
        "datastore",
        "datastore_detail",
        "live_keys",
        "gate_closed",
        "rescue_armed",
    ),
}
SUMMARY = ("id", "kind", "phase", "outcome", "committed", "reason", "created_at", "finished_at", "deadline")

HIDDEN = "(not shown)"
_SECRET_NAME = re.compile(r"token|passw|secret|private", re.IGNORECASE)


def show(value: Any) -> Any:
    """JSON values of a value of the agent. TypeError for a class that is not to be shown."""
    if isinstance(value, enum.Enum):
        return value.value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _show_fields(value)
    if isinstance(value, Mapping):
        return {str(k): show(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [show(v) for v in value]
    if value is None or isinstance(value, str | int | float):
        return value
    raise TypeError(f"{type(value).__name__} is not shown by the API")


def summary(operation: Operation) -> dict[str, Any]:
    """The operation in one line."""
    return {name: show(getattr(operation, name)) for name in SUMMARY}


def _show_fields(value: Any) -> dict[str, Any]:
    names = SHOWN.get(type(value))
    if names is None:
        raise TypeError(f"{type(value).__name__} is not shown by the API")
    shown = {name: show(getattr(value, name)) for name in names}
    if isinstance(value, Operation):
        for free_form in ("facts", "parameters"):
            shown[free_form] = _without_secrets(shown[free_form])
    return shown


def _without_secrets(value: Any) -> Any:
    """Free-form members hold no secrets by the rules of those who write them; this is the second lock."""
    if isinstance(value, dict):
        return {k: HIDDEN if _SECRET_NAME.search(k) else _without_secrets(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_without_secrets(v) for v in value]
    return value
