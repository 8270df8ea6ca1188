"""Blocking work in threads, without leaving any of it behind.

``asyncio.to_thread`` cannot be cancelled: the coroutine ends and the thread goes on writing. A
step whose thread still writes while its undo runs would break the promise, so a cancellation
here first asks the thread to stop and then waits for it.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


async def in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run ``function`` in a thread; when cancelled, wait for it to end before raising."""
    return await _join(asyncio.ensure_future(asyncio.to_thread(function, *args, **kwargs)), None)


async def in_thread_cancellable(function: Callable[[threading.Event], T]) -> T:
    """Run ``function(cancel)`` in a thread; when cancelled, set ``cancel`` and wait for it to end."""
    cancel = threading.Event()
    return await _join(asyncio.ensure_future(asyncio.to_thread(function, cancel)), cancel)


async def _join(work: asyncio.Future[T], cancel: threading.Event | None) -> T:
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        if cancel is not None:
            cancel.set()
        await until_done(work)
        if not work.cancelled():
            work.exception()  # it is the cancellation that is reported
        raise


async def until_done(work: asyncio.Future[Any]) -> None:
    """Wait for its end, whatever happens; a cancellation that comes meanwhile is raised afterwards."""
    cancelled: asyncio.CancelledError | None = None
    while not work.done():
        try:
            await asyncio.wait({work})
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
