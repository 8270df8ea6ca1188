"""Waiting for files to change: inotify through watchdog, always reconciled with a stat.

inotify loses events (a full queue, a directory that was renamed away or made again, no watches left)
and nobody is told. So an event is only a reason to look at once; the look itself happens at least
every ``poll`` seconds, events or not. Nothing rests on an event.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import structlog
from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer

_log = structlog.get_logger(__name__)

T = TypeVar("T")

_QUIET = 0.02
"""Seconds between looks at the most, however many events come: etcd's WAL alone makes thousands."""


_BLOCKED = 5.0
"""Seconds watchdog may take to begin or end."""


class _Tell(FileSystemEventHandler):
    """Wakes the event loop, from watchdog's thread. One wake-up stands for any number of events."""

    def __init__(self, loop: asyncio.AbstractEventLoop, changed: asyncio.Event) -> None:
        self._loop = loop
        self._changed = changed

    def on_any_event(self, event: FileSystemEvent) -> None:
        if event.event_type not in ("opened", "closed_no_write") and not self._loop.is_closed():
            # Closed between the check and the call means: nobody waits any more.
            try:
                self._loop.call_soon_threadsafe(self._changed.set)
            except RuntimeError:
                return


class DirectoryWatch:
    """Watches ``path`` and the directories ``entries`` below it (each by itself, not its whole tree).

    They need not exist: what exists is watched, and the nearest directory above what does not. A
    directory that was replaced is watched anew. ``async with`` starts and ends it.
    """

    def __init__(self, path: Path, *entries: str) -> None:
        self.paths = (path, *(path / entry for entry in entries))
        self._observer: Any = None  # watchdog 2 has no types
        self._watched: dict[Path, tuple[tuple[int, int], Any]] = {}
        self._polling_only = False
        self._changed = asyncio.Event()
        self._closed = False
        self._lock = threading.Lock()
        """One thread at a time arms or disarms; after the end none arms any more."""

    async def __aenter__(self) -> DirectoryWatch:
        self._tell = _Tell(asyncio.get_running_loop(), self._changed)
        await self._in_thread(self._arm)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._closed = True
        await self._in_thread(self._disarm)

    @property
    def polling_only(self) -> bool:
        """inotify cannot be had; changes are noticed by looking alone."""
        return self._polling_only

    async def wait_for(self, predicate: Callable[[], T | None], *, poll: float = 0.5) -> T:
        """Wait until ``predicate`` gives something other than None, and return that.

        It is called at once, after each event and at least every ``poll`` seconds, in the event loop:
        it may stat and nothing slower. No limit of its own: cancel it, or use ``asyncio.timeout``.
        """
        while True:
            self._changed.clear()
            found = predicate()
            if found is not None:
                return found
            if self._stale():
                await self._in_thread(self._arm)
                self._changed.set()  # what came before the new watch made no event: look once more
            try:
                async with asyncio.timeout(poll):
                    await self._changed.wait()
                await asyncio.sleep(min(_QUIET, poll))
            except TimeoutError:
                pass  # the look that needs no event

    async def _in_thread(self, act: Callable[[], None]) -> None:
        """Run what may block in a thread that nobody has to wait for.

        watchdog joins the thread that reads from inotify, and that one waits for a last event from the
        kernel: when it does not come, watching is given up and the thread left behind.
        """
        ended: concurrent.futures.Future[None] = concurrent.futures.Future()

        def run() -> None:
            try:
                act()
            except BaseException as error:  # noqa: BLE001 - handed to the caller
                ended.set_exception(error)
            else:
                ended.set_result(None)

        threading.Thread(target=run, name="watch", daemon=True).start()
        try:
            async with asyncio.timeout(_BLOCKED):
                await asyncio.shield(asyncio.wrap_future(ended))
        except TimeoutError:
            self._give_up("watchdog did not come back")

    # --- watches follow what exists ---------------------------------------------------------------

    def _stale(self) -> bool:
        return not self._polling_only and self._wanted() != {path: at for path, (at, _) in self._watched.items()}

    def _wanted(self) -> dict[Path, tuple[int, int]]:
        """The directories to watch now, each with its device and inode."""
        wanted: dict[Path, tuple[int, int]] = {}
        for path in self.paths:
            for directory in (path, *path.parents):
                try:
                    status = directory.stat()
                except OSError:
                    continue
                wanted[directory] = (status.st_dev, status.st_ino)
                break
        return wanted

    def _arm(self) -> None:
        """Bring the watches in line with what exists."""
        with self._lock:
            if self._polling_only or self._closed:
                return
            try:
                self._follow(self._wanted())
            except FileNotFoundError:
                return  # gone between the stat and the watch; the next look sees that
            except OSError as error:
                self._give_up(str(error))
        if self._polling_only:
            self._disarm()

    def _follow(self, wanted: dict[Path, tuple[int, int]]) -> None:
        if self._observer is None:
            make: Any = Observer
            self._observer = make()
            self._observer.start()
        for path, (at, watch) in list(self._watched.items()):
            if wanted.get(path) != at:
                del self._watched[path]
                self._observer.unschedule(watch)
        for path, at in wanted.items():
            if path not in self._watched:
                watch = self._observer.schedule(self._tell, str(path), recursive=False)
                self._watched[path] = (at, watch)

    def _give_up(self, reason: str) -> None:
        if not self._polling_only:
            self._polling_only = True
            _log.warning(
                "Files cannot be watched by inotify; changes are noticed by looking for them",
                directory=str(self.paths[0]),
                error=reason,
            )

    def _disarm(self) -> None:
        with self._lock:
            observer, self._observer = self._observer, None
            self._watched.clear()
            if observer is not None:
                observer.stop()
                observer.join()
