"""What happens, told once: to people as a picture or as lines, to programs as JSON lines."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, Self, TextIO

from k3s_ha_agent.errors import ConfigurationError
from k3s_ha_agent.fleet.outcome import Ending
from k3s_ha_agent.model import Operation, StepStatus, now

RUNNING = (StepStatus.DOING, StepStatus.UNDOING)


@dataclasses.dataclass(slots=True)
class Row:
    """Where a cluster is."""

    cluster: str
    wave: str
    servers: int
    ready: int = 0
    """Servers that have what they need."""
    server: str = ""
    doing: str = ""
    away: Callable[[], float | None] = lambda: None
    """Seconds since the agent that is asked stopped answering."""
    began: float | None = None
    ended: float | None = None
    """Monotonic seconds."""
    ending: Ending | None = None


class Listener(Protocol):
    """Gets one sentence for each event worth a line."""

    def line(self, sentence: str) -> None: ...


class EventLog:
    """A file of JSON lines; each is written at once and whole, so that a killed run leaves no half line."""

    def __init__(self, path: Path) -> None:
        try:
            self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
        except OSError as error:
            raise ConfigurationError(f"The log {path} cannot be written: {error.strerror}.") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def write(self, event: Mapping[str, Any]) -> None:
        os.write(self._fd, json.dumps(event).encode() + b"\n")


class Report:
    """The state of a run, and everybody who wants to hear of it."""

    def __init__(self, fleet: str, log: EventLog | None) -> None:
        self.rows: dict[str, Row] = {}
        self.listener: Listener | None = None
        self.heading = ""
        self._fleet = fleet
        self._log = log
        self._steps: dict[str, tuple[str, str]] = {}

    def event(self, name: str, sentence: str, *, cluster: str | None = None, **facts: Any) -> None:
        """Something happened. ``facts`` are JSON values without secrets; ``sentence`` is for people."""
        if self._log is not None:
            event = {"time": now(), "fleet": self._fleet, "event": name, "cluster": cluster}
            self._log.write({**event, **facts, "sentence": sentence})
        if self.listener is not None:
            self.listener.line(sentence if cluster is None else f"{cluster}: {sentence}")

    def begin(self, cluster: str) -> None:
        self.rows[cluster].began = time.monotonic()
        self.rows[cluster].doing = "asking its agents"
        self.event("cluster-began", "began", cluster=cluster, wave=self.rows[cluster].wave)

    def end(self, ending: Ending) -> None:
        row = self.rows[ending.cluster]
        row.ending, row.ended, row.doing = ending, time.monotonic(), ""
        facts = {name: value for name, value in ending.as_json().items() if name != "cluster"}
        self.event("cluster-ended", f"{ending.result.value}: {ending.why}", cluster=ending.cluster, **facts)

    def progress(self, cluster: str, server: str, operation: Operation) -> None:
        """An operation as it is now: the picture always, an event when another step is begun."""
        step = next((s for s in operation.steps if s.status in RUNNING), None)
        name, status = ("", "") if step is None else (step.name, step.status.value)
        row = self.rows[cluster]
        row.server, row.doing = server, f"{operation.kind} {name}".strip()
        if step is not None and step.status is StepStatus.UNDOING:
            row.doing = f"{operation.kind} undoing {name}"
        if step is not None and step.progress is not None:
            row.doing += f" {step.progress.done} of {step.progress.total} {step.progress.unit}"
        if step is not None and self._steps.get(cluster) != (name, status):
            self._steps[cluster] = (name, status)
            self.event(
                "step",
                f"{server}: {operation.kind} {name} {status}",
                cluster=cluster,
                server=server,
                operation=operation.id,
                kind=operation.kind.value,
                step=name,
                status=status,
            )


class Lines:
    """One line for each event, for a pipe."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def line(self, sentence: str) -> None:
        print(clean(sentence), file=self._out, flush=True)


def clean(text: str) -> str:
    """On one line and without control characters: what an agent says draws nothing here."""
    return "".join(character if character.isprintable() else " " for character in text)
