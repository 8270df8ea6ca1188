"""Following an operation to its end, also across a restart of the agent.

The record is the truth and is asked for again whenever something happened and at least every half
second; the event stream says when, and tells what the record does not keep: each transition, and the
decisions in words. When the agent goes away the
operation may well go on (it resumes it, or the rescue ends it), so it is waited for.
"""

from __future__ import annotations

import dataclasses
import queue
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

from k3s_ha_agent.ctl import words
from k3s_ha_agent.ctl.client import Client, Problem, ServerEvent
from k3s_ha_agent.durations import format_duration
from k3s_ha_agent.errors import AgentUnreachable, Forbidden

ASK_EVERY = 0.5
SETTLE = 0.05
"""Seconds to gather events that come together before the record is asked for."""
LAST_EVENTS = 2.0
"""Seconds to wait for the end of the stream once the operation has finished."""


@dataclasses.dataclass(frozen=True, slots=True)
class Update:
    """What is known now, and the events since the last update.

    ``away``: seconds since the agent stopped answering, None while it answers.
    """

    operation: Mapping[str, Any]
    events: tuple[ServerEvent, ...] = ()
    away: float | None = None


class EventReader:
    """Reads an event stream in a thread of its own, as long as it lasts."""

    def __init__(self, client: Client, target: str, last_id: str | None) -> None:
        self.last_id = last_id
        self._client = client
        self._target = target
        self._happened: queue.SimpleQueue[ServerEvent | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def join(self, timeout: float) -> None:
        self._thread.join(timeout)

    def wait(self, timeout: float) -> tuple[ServerEvent, ...]:
        """Wait until something happened, at most ``timeout`` seconds; the events that came."""
        try:
            first = self._happened.get(timeout=timeout)
        except queue.Empty:
            return ()
        time.sleep(SETTLE)
        found = [first]
        while not self._happened.empty():
            found.append(self._happened.get())
        return tuple(event for event in found if event is not None)

    def _read(self) -> None:
        try:
            for event in self._client.events(self._target, self.last_id):
                self.last_id = event.id or self.last_id
                self._happened.put(event)
        except (AgentUnreachable, Forbidden, Problem):
            # Asking for the record next finds out what is the matter, and says so.
            self._happened.put(None)


def updates(client: Client, operation: Mapping[str, Any], *, patience: float) -> Iterator[Update]:
    """What becomes of an operation, until it has finished.

    ``patience``: seconds an agent that went away is waited for; then AgentUnreachable.
    """
    target = f"/v1/operations/{operation['id']}"
    reader: EventReader | None = None
    last_answer = time.monotonic()
    while True:
        try:
            operation = client.get(target)
        except (AgentUnreachable, Problem) as error:
            if not is_away(error):
                raise
            away = time.monotonic() - last_answer
            if away > patience:
                raise _gave_up(error, away) from error
            yield Update(operation, away=away)
            time.sleep(ASK_EVERY)
            continue
        last_answer = time.monotonic()
        if words.finished(operation):
            yield Update(operation, _rest(client, f"{target}/events", reader))
            return
        if reader is None:
            reader = EventReader(client, f"{target}/events", None)
        elif not reader.alive:
            # The stream ended early: the agent was restarted, or has too many callers.
            yield Update(operation, reader.wait(0))
            time.sleep(ASK_EVERY)
            reader = EventReader(client, f"{target}/events", reader.last_id)
        yield Update(operation)
        yield Update(operation, reader.wait(ASK_EVERY))


def is_away(error: AgentUnreachable | Problem) -> bool:
    """True when the agent is not there, or is just starting or stopping."""
    return isinstance(error, AgentUnreachable) or error.document.get("code") == "unavailable"


def _rest(client: Client, target: str, reader: EventReader | None) -> tuple[ServerEvent, ...]:
    """Events up to the end that were not told yet."""
    told: tuple[ServerEvent, ...] = ()
    if reader is None or not reader.alive:
        told = () if reader is None else reader.wait(0)
        reader = EventReader(client, target, None if reader is None else reader.last_id)
    reader.join(LAST_EVENTS)
    return told + reader.wait(0)


def _gave_up(error: Exception, away: float) -> AgentUnreachable:
    return AgentUnreachable(
        f"The agent has not answered for {format_duration(round(away))} ({error}). The operation is not lost: "
        "the agent goes on with it when it starts, or the rescue ends it at the deadline.",
        next_step="See: systemctl status k3s-ha-agent.service",
    )
