"""The one thread that talks D-Bus, and systemd's Manager object as seen through one connection.

pydbus blocks, and its signals need a GLib main context that somebody runs. So one thread owns both:
it serves calls from a queue and dispatches signals in between. Nothing else in the agent touches
pydbus.

What is guarded against:

* Every call has a time limit; one that was not begun before its caller gave up is never made.
* A proxy costs an introspection and a set of classes, a subscription lives until it is taken back:
  proxies are kept and bounded in number, and there are two subscriptions per connection.
* The shared connection of ``pydbus.SystemBus()`` ends the *process* when the bus goes away (Gio's
  exit-on-close). A private connection is made instead, and made again when it was lost.
* A connection object is never freed. GDBus's own thread holds a lock of all connections while it waits for
  Python's (it touches the reference count of a connection Python knows); freeing one waits for that lock
  while holding Python's. The whole process would stand still, for ever. Seen: a garbage collection after
  the bus had been restarted. It costs a few kB each time the bus is lost.
* systemd sends signals only to clients that called ``Manager.Subscribe``, and forgets them when it is
  replaced on the bus: that is watched, and asked again.
"""

from __future__ import annotations

import asyncio
import collections
import concurrent.futures
import contextlib
import ctypes
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import pydbus
from gi.repository import Gio, GLib

from k3s_ha_agent.errors import SystemdError

T = TypeVar("T")

SYSTEMD = "org.freedesktop.systemd1"
MANAGER_PATH = "/org/freedesktop/systemd1"
MANAGER = "org.freedesktop.systemd1.Manager"
PROPERTIES = "org.freedesktop.DBus.Properties"

_KEPT_PROXIES = 32

JobRemoved = Callable[[str, str, str], None]
"""Called in the bus thread with a job's object path, its unit and its result."""


class Connection:
    """systemd behind one D-Bus connection. Belongs to the bus thread; nobody else may call it."""

    def __init__(self, address: str | None, context: Any, on_job_removed: JobRemoved) -> None:
        if address is None:
            address = Gio.dbus_address_get_for_bus_sync(Gio.BusType.SYSTEM, None)
        self._context = context
        self._until = 0.0
        self._subscribed = False
        self._manager: Any = None
        self._properties: collections.OrderedDict[str, Any] = collections.OrderedDict()
        self._bus = pydbus.connect(address)
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._bus.con))  # never freed, see above
        self._bus.con.set_exit_on_close(False)
        self._subscriptions = [
            self._bus.subscribe(
                sender=SYSTEMD,
                object=MANAGER_PATH,
                iface=MANAGER,
                signal="JobRemoved",
                signal_fired=lambda sender, path, iface, signal, args: on_job_removed(args[1], args[2], args[3]),
            ),
            self._bus.subscribe(
                sender="org.freedesktop.DBus",
                object="/org/freedesktop/DBus",
                iface="org.freedesktop.DBus",
                signal="NameOwnerChanged",
                arg0=SYSTEMD,
                signal_fired=lambda *args: self._systemd_replaced(),
            ),
        ]

    @property
    def closed(self) -> bool:
        return bool(self._bus.con.is_closed())

    def begin(self, seconds: float) -> None:
        """Give the calls that follow ``seconds`` together, and see that signals are sent to us."""
        self._until = time.monotonic() + seconds
        self.dispatch()
        if self._manager is None:
            self._manager = self._bus.get(SYSTEMD, MANAGER_PATH, timeout=self.left())[MANAGER]
        if not self._subscribed:
            try:
                self._manager.Subscribe(timeout=self.left())
            except GLib.Error as error:
                if _remote_name(error) != f"{SYSTEMD}.AlreadySubscribed":
                    raise
            self._subscribed = True

    def left(self) -> float:
        """Seconds the call at hand may still take; never 0, which D-Bus would take for a default."""
        return max(0.001, self._until - time.monotonic())

    def manager(self, method: str, *args: Any) -> Any:
        return getattr(self._manager, method)(*args, timeout=self.left())

    def properties(self, path: str) -> dict[str, Any]:
        """All properties of all interfaces of an object, read in one moment.

        The empty interface name means all of them to systemd (sd-bus; ``systemctl show`` asks the same
        way). One call for each interface would show a unit that changes in between in two states at once.
        """
        proxy = self._properties.get(path)
        if proxy is None:
            proxy = self._bus.get(SYSTEMD, path, timeout=self.left())[PROPERTIES]
            self._properties[path] = proxy
            if len(self._properties) > _KEPT_PROXIES:
                self._properties.popitem(last=False)
        self._properties.move_to_end(path)
        found: dict[str, Any] = proxy.GetAll("", timeout=self.left())
        return found

    def dispatch(self) -> None:
        """Deliver signals that have come in. One that systemd sent before an answer we hold is among them."""
        while self._context.pending():
            self._context.iteration(False)

    def close(self) -> None:
        for subscription in self._subscriptions:
            subscription.unsubscribe()
        if not self.closed:
            with contextlib.suppress(GLib.Error):  # lost in this moment: then it is closed as well
                self._bus.con.close_sync(None)

    def _systemd_replaced(self) -> None:
        self._subscribed = False
        self._properties.clear()


class BusThread:
    """Runs calls on a thread of its own, connecting when needed."""

    def __init__(self, address: str | None, call_timeout: float, on_job_removed: JobRemoved) -> None:
        self._address = address
        self._call_timeout = call_timeout
        self._on_job_removed = on_job_removed
        self._context = GLib.MainContext()
        self._queue: collections.deque[tuple[concurrent.futures.Future[Any], Callable[[], Any]]] = collections.deque()
        self._connection: Connection | None = None
        self._closing = False
        self._thread = threading.Thread(target=self._main, name="dbus", daemon=True)

    def start(self) -> None:
        self._thread.start()

    async def close(self) -> None:
        """End the thread. One that hangs in a call is left behind; it does not keep the process alive."""
        self._closing = True
        self._context.wakeup()
        if self._thread.is_alive():
            await asyncio.to_thread(self._thread.join, self._call_timeout + 1)

    async def run(
        self, what: str, act: Callable[[Connection], T], *, timeout: float | None = None, repeatable: bool = False
    ) -> T:
        """Run ``act`` in the bus thread, its D-Bus calls limited to ``timeout`` seconds together.

        ``what`` says what could not be done when it fails. ``repeatable``: reads only, so it is tried
        once more when the connection turned out to be lost. SystemdError when systemd refused, did
        not answer in time, or cannot be reached; the extension ``dbus_error`` is D-Bus's name for it.
        """
        seconds = self._call_timeout if timeout is None else timeout
        if self._closing or not self._thread.is_alive():
            raise SystemdError(f"Cannot {what}: the connection to systemd is closed.", dbus_error="closed")
        future: concurrent.futures.Future[T] = concurrent.futures.Future()
        self._queue.append((future, lambda: self._attempt(what, act, seconds, repeatable)))
        self._context.wakeup()
        try:
            # The thread may first have to end a call of somebody else, which has a limit as well.
            async with asyncio.timeout(seconds + self._call_timeout + 1):
                return await asyncio.wrap_future(future)
        except TimeoutError:
            raise _no_answer(what, seconds + self._call_timeout + 1) from None

    # --- in the bus thread -------------------------------------------------------------------

    def _main(self) -> None:
        self._context.push_thread_default()
        try:
            while not self._closing:
                while self._queue:
                    self._serve(*self._queue.popleft())
                # A wake-up between the last look at the queue and here is not lost: it ends this at once.
                self._context.iteration(True)
        finally:
            while self._queue:
                self._queue.popleft()[0].cancel()
            if self._connection is not None:
                self._connection.close()
            self._context.pop_thread_default()

    def _serve(self, future: concurrent.futures.Future[Any], call: Callable[[], Any]) -> None:
        if not future.set_running_or_notify_cancel():
            return  # its caller gave up; a start or stop asked for in the past must not happen now
        try:
            future.set_result(call())
        except Exception as error:  # noqa: BLE001 - handed to the caller, whatever it is
            future.set_exception(error)

    def _attempt(self, what: str, act: Callable[[Connection], T], seconds: float, repeatable: bool) -> T:
        try:
            return self._once(act, seconds)
        except GLib.Error as error:
            if not (repeatable and self._lost()):
                raise _explained(what, seconds, error) from None
        try:
            return self._once(act, seconds)
        except GLib.Error as error:
            raise _explained(what, seconds, error) from None

    def _once(self, act: Callable[[Connection], T], seconds: float) -> T:
        if self._connection is not None and self._connection.closed:
            self._connection.close()
            self._connection = None
        if self._connection is None:
            self._connection = Connection(self._address, self._context, self._on_job_removed)
        self._connection.begin(seconds)
        return act(self._connection)

    def _lost(self) -> bool:
        return self._connection is None or self._connection.closed


def _remote_name(error: Any) -> str:
    """D-Bus's name of an error that came over the bus, else ""."""
    return str(Gio.DBusError.get_remote_error(error) or "")


def _no_answer(what: str, seconds: float) -> SystemdError:
    return SystemdError(
        f"Cannot {what}: systemd did not answer within {seconds:g} s.",
        next_step="See whether `systemctl status` answers; it asks the same way.",
        dbus_error="org.freedesktop.DBus.Error.NoReply",
    )


def _explained(what: str, seconds: float, error: Any) -> SystemdError:
    name = _remote_name(error)
    timed_out = error.matches(Gio.io_error_quark(), Gio.IOErrorEnum.TIMED_OUT)
    if timed_out or name == "org.freedesktop.DBus.Error.NoReply":
        return _no_answer(what, seconds)
    message = str(error.message).removeprefix(f"GDBus.Error:{name}: ")
    if name.startswith(SYSTEMD):
        return SystemdError(f"Cannot {what}: {message}", dbus_error=name)
    return SystemdError(
        f"Cannot {what}: D-Bus says {message}",
        next_step="See `systemctl status dbus`; the agent connects again by itself.",
        dbus_error=name,
    )
