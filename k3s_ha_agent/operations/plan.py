"""What a step is, and what a plan is.

A step puts one act, its proof and its way back side by side. The engine owns everything else:
order, deadlines, records, what is undone when. A new operation is a new tuple of steps.

The rules a step keeps:

* ``do``, ``verify`` and ``undo`` may each be run again after having run wholly or in part: the
  agent may be killed at any point, and a resumption begins with the act that was not recorded
  as ended.
* ``undo`` is called also for the step that failed, and must cope with a ``do`` that stopped
  anywhere, or never began.
* ``do`` writes what ``undo`` needs into the record (``run.remember``) *before* it acts.
* Nothing blocks the event loop, and every wait has an end.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

from k3s_ha_agent.model import Kind, Operation


class Run(Protocol):
    """What a step may know of, and do to, the operation it belongs to."""

    @property
    def operation(self) -> Operation: ...

    def fact(self, name: str) -> Any:
        """A fact remembered earlier; KeyError when there is none."""

    def has_fact(self, name: str) -> bool: ...

    async def remember(self, **facts: Any) -> None:
        """Make facts durable before returning. JSON values only, no secrets."""

    def progress(self, done: int, total: int, unit: str) -> None:
        """Report progress; shown, not durable. May be called from any thread."""

    def decide(self, sentence: str) -> None:
        """Say one decision to people, in the log and in the events."""

    def evidence(self, name: str, ok: bool, value: str, needed: str = "") -> None:
        """Record a fact the result rests on, replacing an earlier one of that name.

        Raises EvidenceMissing when it is false.
        """

    def remaining(self) -> float:
        """Seconds until the operation's deadline; while undoing, until the deadline for undoing.

        Measured on the monotonic clock, so that a clock that jumps changes nothing.
        """

    async def forget(self, *names: str) -> None:
        """Drop facts, durably; those that are not there are as good as dropped."""

    async def set_rescue(self, **rescue: Any) -> None:
        """Make durable what ``rescue.py`` needs to bring the node back (see its docstring)."""

    async def set_deadline(self, seconds: float) -> None:
        """The deadline of the way forward, seconds from now, durable."""


class Step(Protocol):
    """One act of an operation."""

    @property
    def name(self) -> str: ...

    @property
    def resumable(self) -> bool:
        """True when an interrupted ``do`` may simply be run again after the agent was restarted
        within the same boot. False: the resumption rolls back."""

    @property
    def on_disk(self) -> str:
        """What is on disk when power fails here; one or two sentences for docs/interruptions.md."""

    @property
    def by_hand(self) -> str:
        """What a person would do by hand when nothing else is left; for docs/interruptions.md."""

    async def do(self, run: Run) -> None: ...

    async def verify(self, run: Run) -> None:
        """Raise when the world is not as ``do`` should have left it."""

    async def undo(self, run: Run) -> None: ...


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """Steps in order. After ``commitment`` is done nothing is undone by itself."""

    kind: Kind
    steps: tuple[Step, ...]
    commitment: str
    no_way_back: str | None = None
    """A step that, once begun, can only be finished, whatever was in between."""

    def __post_init__(self) -> None:
        names = [step.name for step in self.steps]
        if len(set(names)) != len(names):
            raise ValueError(f"step names of {self.kind} repeat: {names}")
        if self.commitment not in names:
            raise ValueError(f"{self.commitment!r} is no step of {self.kind}")

    def index(self, name: str) -> int:
        return [step.name for step in self.steps].index(name)


Observer = Callable[[str], None]
"""Called by the engine with the name of each point it passes: ``before do stop-k3s``,
``after verify stop-k3s``, ``before record``, ``after record``, … Logging and metrics hang here."""
