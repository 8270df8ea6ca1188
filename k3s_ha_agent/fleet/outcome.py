"""How a cluster, and the fleet, came out of it, and the exit code that stands for it."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterable
from typing import Any

from k3s_ha_agent.fleet.assess import Need
from k3s_ha_agent.model import CheckResult, CheckStatus, to_json


class Result(enum.StrEnum):
    DONE = "done"
    ROLLBACK_FAILED = "rollback_failed"
    FAILED = "failed"
    UNREACHABLE = "unreachable"
    ROLLED_BACK = "rolled_back"
    BLOCKED = "blocked"
    NOT_BEGUN = "not_begun"
    """The fleet was stopped before its wave."""


FAILURES = frozenset({Result.ROLLBACK_FAILED, Result.FAILED, Result.UNREACHABLE, Result.ROLLED_BACK})
"""What counts towards ``stop_after_failures``. A blocked cluster was not touched, and does not count."""

OF_NEED = {
    Need.BROKEN: Result.ROLLBACK_FAILED,
    Need.FAILED: Result.FAILED,
    Need.UNREACHABLE: Result.UNREACHABLE,
    Need.HELD: Result.ROLLED_BACK,
    Need.BLOCKED: Result.BLOCKED,
}
"""What became of a cluster that was not begun, by what is in its way."""

EXIT_CODES = (
    (Result.ROLLBACK_FAILED, 4),
    (Result.NOT_BEGUN, 6),
    (Result.FAILED, 1),
    (Result.UNREACHABLE, 7),
    (Result.ROLLED_BACK, 3),
    (Result.BLOCKED, 5),
)
"""The first that any cluster has is the exit code; 0 when all are done."""


@dataclasses.dataclass(frozen=True, slots=True)
class Ending:
    """How a cluster ended. ``checks``: those that refused."""

    cluster: str
    result: Result
    why: str
    next_step: str = ""
    server: str | None = None
    checks: tuple[CheckResult, ...] = ()

    def as_json(self) -> dict[str, Any]:
        return {
            "cluster": self.cluster,
            "result": self.result.value,
            "server": self.server,
            "why": self.why,
            "next_step": self.next_step,
            "checks": to_json(self.checks),
        }


def exit_code(endings: Iterable[Ending]) -> int:
    found = {ending.result for ending in endings}
    return next((code for result, code in EXIT_CODES if result in found), 0)


def refused(checks: Iterable[CheckResult]) -> tuple[CheckResult, ...]:
    return tuple(check for check in checks if check.status is CheckStatus.REFUSED)


def because(checks: Iterable[CheckResult]) -> str:
    """Why preflight refuses, in one line."""
    return "; ".join(f"{check.name}: {check.found}" for check in refused(checks))
