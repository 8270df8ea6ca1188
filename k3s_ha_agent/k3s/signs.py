"""What a line of a log can be a sign of."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, slots=True)
class Migrating:
    """One live key was copied; there is one such line for each of them."""

    key: str


@dataclasses.dataclass(frozen=True, slots=True)
class Milestone:
    name: str


@dataclasses.dataclass(frozen=True, slots=True)
class BadSign:
    """The start will not end well."""

    name: str
    sentence: str
    """What it means. Never holds the line's own text where that could carry a secret."""
    remedy: str
    only_when_migrating: bool = False
    """True for what is bad on a run that should convert SQLite, and ordinary on any other."""
    only_when_fatal: bool = False
    """True for texts that the kubelet or the API server may also log about somebody's pod or
    object, or that k3s logs while it tries again: they count only in the line with which the process ends."""


LogSign = Migrating | Milestone | BadSign
