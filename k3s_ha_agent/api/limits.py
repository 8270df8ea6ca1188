"""How often a caller may ask for changes: a bucket of tokens for each."""

from __future__ import annotations

import math
from collections.abc import Callable

from k3s_ha_agent.errors import TooManyRequests

KEPT = 1024
"""Callers remembered at a time; a full bucket needs no memory."""


class Buckets:
    """Each caller has ``burst`` tokens and gets ``per_second`` back. ``clock`` counts seconds."""

    def __init__(self, burst: int, per_second: float, clock: Callable[[], float]) -> None:
        self._burst = burst
        self._per_second = per_second
        self._clock = clock
        self._left: dict[str, tuple[float, float]] = {}

    def take(self, caller: str) -> None:
        """Take a token. TooManyRequests when there is none left."""
        now = self._clock()
        if len(self._left) >= KEPT:
            self._left = {name: held for name, held in self._left.items() if self._now(held, now) < self._burst}
        left = self._now(self._left.get(caller, (self._burst, now)), now)
        if left < 1:
            wait = math.ceil((1 - left) / self._per_second)
            raise TooManyRequests(
                f"{caller} has asked for {self._burst} changes within a short time.",
                next_step=f"Ask again in {wait} s.",
                retry_after=wait,
            )
        self._left[caller] = (left - 1, now)

    def _now(self, held: tuple[float, float], now: float) -> float:
        left, then = held
        return min(float(self._burst), left + (now - then) * self._per_second)
