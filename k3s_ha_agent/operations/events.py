"""Who is told what happens in an operation: subscribers now, and those who come back later."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import structlog

from k3s_ha_agent.model import Event, Operation, now
from k3s_ha_agent.operations.journal import Journal

KEPT_IN_MEMORY = 2000
IDS_PER_LIFE = 1_000_000
log = structlog.get_logger("k3s_ha_agent.operations")


class EventBook:
    """The events of the operations, by number; progress is told but not kept on disk."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._events: dict[str, list[Event]] = {}
        self._finished: set[str] = set()
        self._changed = asyncio.Condition()
        self._wakers: set[asyncio.Task[None]] = set()

    def last_id(self, operation_id: str) -> int:
        """The id after which a new life of the agent numbers its events.

        Progress takes ids but is not kept, so those of an earlier life are not known exactly: each life
        begins at the next round number, and no id is ever given twice.
        """
        events = self._load(operation_id)
        return (events[-1].id // IDS_PER_LIFE + 1) * IDS_PER_LIFE if events else 0

    def settle(self, operation: Operation) -> None:
        """Tell the end of an operation that ended without us: the rescue writes no events."""
        if operation.outcome is None or operation.id in self._finished:
            return
        self._load(operation.id)
        if operation.id not in self._finished:
            ended = Event(self.last_id(operation.id) + 1, now(), "finished", {"outcome": operation.outcome.value})
            self.publish(operation, ended)

    def _load(self, operation_id: str) -> list[Event]:
        if operation_id not in self._events:
            self._events[operation_id] = list(self._journal.events(operation_id))
            if any(e.type == "finished" for e in self._events[operation_id]):
                self._finished.add(operation_id)
        return self._events[operation_id]

    def publish(self, operation: Operation, event: Event) -> None:
        """Tell an event. Progress replaces the progress before it, so that slow readers skip and memory stays."""
        events = self._load(operation.id)
        if event.type == "progress" and events and events[-1].type == "progress":
            events[-1] = event
        else:
            events.append(event)
        del events[:-KEPT_IN_MEMORY]
        if event.type != "progress":
            try:
                self._journal.append_event(operation.id, event)
            except OSError as error:
                # Not the record: nothing is decided by it, so nothing may fail for it.
                log.warning(f"An event of {operation.id} cannot be written: {error}.", event_type=event.type)
        if event.type == "finished":
            self._finished.add(operation.id)
        waker = asyncio.ensure_future(self._wake())
        self._wakers.add(waker)
        waker.add_done_callback(self._wakers.discard)

    async def _wake(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def follow(self, operation_id: str, after: int) -> AsyncIterator[Event]:
        """Events with an id greater than ``after``, until the finished one."""
        while True:
            events = [e for e in self._load(operation_id) if e.id > after]
            for event in events:
                after = event.id
                yield event
                if event.type == "finished":
                    return
            if not events and operation_id in self._finished:
                return
            async with self._changed:
                if not any(e.id > after for e in self._load(operation_id)) and operation_id not in self._finished:
                    await self._changed.wait()
