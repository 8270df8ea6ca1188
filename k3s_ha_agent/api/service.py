"""What every handler shares: is the agent ready, is it closing, how many callers are kept waiting."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar

from aiohttp import web

from k3s_ha_agent.errors import Unavailable

LOOK_AGAIN = 0.5
"""Seconds between two looks at whether the caller is still there. aiohttp does not tell a handler."""

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
    """How long callers may take, and how many of them are kept waiting. Seconds."""

    body_timeout: float = 10.0
    """How long a body may take to arrive."""
    keep_alive: float = 15.0
    """The silence after which an event stream sends a comment, so that nobody in between gives up."""
    write_timeout: float = 30.0
    """How long a caller may take to read what was sent before it is let go."""
    long_calls: int = 64
    """The most ``wait`` and ``events`` calls at a time. Each holds a file descriptor of the agent,
    which needs its descriptors for the operation itself."""
    connections: int = 128
    """The most connections at a time, for the socket and for each port."""
    first_request: float = 20.0
    """How long a connection may be without its first request, shaking hands included."""
    idle: float = 75.0
    """How long it may be without another one."""
    changes_burst: int = 30
    """How many changes one caller may ask for at once; they come back at ``changes_per_second``."""
    changes_per_second: float = 1.0
    look_at_files: float = 2.0
    """How often the files of token and TLS are looked at."""


class Service:
    """The state of the API itself, one per agent."""

    def __init__(self, ready: Callable[[], bool], limits: Limits) -> None:
        self.ready = ready
        self.limits = limits
        self.closing = False
        self.long_calls = 0
        self._unbroken: set[asyncio.Task[Any]] = set()

    def require_open(self) -> None:
        if self.closing:
            raise Unavailable("The agent is being stopped.", next_step="Ask again in some seconds.")

    def require_journal(self) -> None:
        """Unavailable until the journal has been read: before, nothing is known of operations."""
        if not self.ready():
            raise Unavailable("The agent is starting and reads its journal.", next_step="Ask again in some seconds.")

    @contextlib.contextmanager
    def long_call(self) -> Iterator[None]:
        """Counts a call that may take minutes. Unavailable when there are too many."""
        if self.long_calls >= self.limits.long_calls:
            raise Unavailable(
                f"{self.long_calls} callers are waiting already.",
                next_step="Ask again in some seconds, or poll instead.",
            )
        self.long_calls += 1
        try:
            yield
        finally:
            self.long_calls -= 1

    async def unbroken(self, work: Coroutine[Any, Any, T]) -> T:
        """Let work that changes things run to its end, whatever becomes of the caller or this server."""
        task = asyncio.create_task(work)
        self._unbroken.add(task)
        task.add_done_callback(self._unbroken.discard)
        return await asyncio.shield(task)

    async def settled(self, timeout: float) -> None:
        """Wait for work that was begun by callers, at most ``timeout`` seconds."""
        if self._unbroken:
            await asyncio.wait(set(self._unbroken), timeout=timeout)


def gone(request: web.Request) -> bool:
    """True when the caller has closed the connection."""
    return request.transport is None or request.transport.is_closing()
