"""The small words every check is written in: results, and what a check does not know.

A fact that could not be found out is a value (``Missing``) and not an exception, so that a Subject
is complete whatever the machine did not answer. A check that needs such a fact calls ``known`` and
is refused: what cannot be checked is not passed.
"""

from __future__ import annotations

import dataclasses
from typing import TypeVar

from k3s_ha_agent.model import CheckResult, CheckStatus

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, slots=True)
class About:
    """What docs/preflight.md says of a check."""

    looks_at: str
    refuses: str
    warns: str
    remedy: str
    facts: str
    """Where the reason stands: rows of k3s-facts (M2, R3, …)."""


@dataclasses.dataclass(frozen=True, slots=True)
class Missing:
    """A fact that is not there, and why.

    ``see`` names the check that refuses for that very reason (there is no SQLite database to look
    at because the server is on etcd already). The other checks that need the fact are then passed
    over for the sake of a readable answer, but only if that check did refuse.
    """

    reason: str
    """A sentence with its full stop."""
    see: str = ""
    remedy: str = ""
    """What to do; when empty, what the check's own line in the table says."""


OTHER_KIND = Missing("Not looked at for this kind of operation.")


class NotKnown(Exception):
    """Raised by ``known`` inside a check; the runner turns it into a result."""

    def __init__(self, missing: Missing) -> None:
        super().__init__(missing.reason)
        self.missing = missing


def known(fact: T | Missing) -> T:
    """The fact, or NotKnown."""
    if isinstance(fact, Missing):
        raise NotKnown(fact)
    return fact


def passed(name: str, found: str) -> CheckResult:
    return CheckResult(name, CheckStatus.OK, found)


def warned(name: str, found: str, needs: str, remedy: str) -> CheckResult:
    return CheckResult(name, CheckStatus.WARNED, found, needs, remedy)


def refused(name: str, found: str, needs: str, remedy: str) -> CheckResult:
    return CheckResult(name, CheckStatus.REFUSED, found, needs, remedy)


def size(count: int) -> str:
    """A number of bytes for people, in binary units."""
    if count < 1024:
        return f"{count} B"
    value = float(count)
    for unit in ("KiB", "MiB", "GiB"):
        value /= 1024
        if value < 1024:
            return f"{value:.1f} {unit}"
    return f"{value / 1024:.1f} TiB"
