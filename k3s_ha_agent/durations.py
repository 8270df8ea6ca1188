"""Durations as people and systemd write them: ``"30s"``, ``"5m"``, ``"1h30m"``, ``"250ms"``."""

from __future__ import annotations

import re

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|min|m|h|d)")


def parse_duration(text: str) -> float:
    """Seconds of a duration. ValueError when it is not one; a bare number has no unit and is refused."""
    position = 0
    seconds = 0.0
    for match in _PART.finditer(text):
        if match.start() != position:
            break
        seconds += float(match[1]) * _UNITS[match[2]]
        position = match.end()
    if not text or position != len(text):
        raise ValueError(f'{text!r} is not a duration; write it like "30s", "5m" or "1h30m"')
    return seconds


def format_duration(seconds: float) -> str:
    """A duration as ``parse_duration`` reads it, rounded to what a person needs."""
    if seconds < 1:
        return f"{round(seconds * 1000)}ms"
    if seconds < 60:
        return f"{seconds:.1f}".removesuffix(".0") + "s"
    whole = round(seconds)
    parts = ((whole // 86400, "d"), (whole // 3600 % 24, "h"), (whole // 60 % 60, "m"), (whole % 60, "s"))
    return "".join(f"{n}{unit}" for n, unit in parts if n)
