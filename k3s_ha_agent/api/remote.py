"""The ways in besides the socket: opened when they can be, and kept to the files they stand on.

Never a reason not to start: what is unfinished on this server needs the agent more than a fleet controller
does. What is missing is said in the log, and tried again until it is there.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import structlog
from aiohttp import web

from k3s_ha_agent.api.listener import Listener
from k3s_ha_agent.api.loopback import TokenDoor, read_token
from k3s_ha_agent.api.service import Limits
from k3s_ha_agent.api.tls import CertificateDoor, files_of, make_context
from k3s_ha_agent.errors import ConfigurationError
from k3s_ha_agent.host.messages import Message
from k3s_ha_agent.settings import Address, Settings

BACKLOG = 64
Stamp = tuple[tuple[int, int, int] | None, ...]

log = structlog.get_logger("k3s_ha_agent.api")


class Entrance(Protocol):
    """A port, what it needs, and its listener once it is open."""

    address: Address
    files: tuple[Path, ...]

    async def refresh(self) -> None:
        """Read the files. ConfigurationError when they cannot be used."""

    def open(self, listening: socket.socket, server: web.Server, limits: Limits) -> Listener: ...


class TokenEntrance:
    def __init__(self, address: Address, token_file: Path) -> None:
        self.address = address
        self.files: tuple[Path, ...] = (token_file,)
        self._door = TokenDoor(address)

    async def refresh(self) -> None:
        # Until it is known to be good, nobody is let in: an old token may be why it was taken away.
        self._door.set_token(None)
        self._door.set_token(await asyncio.to_thread(read_token, self.files[0]))

    def open(self, listening: socket.socket, server: web.Server, limits: Limits) -> Listener:
        return Listener(listening, server, self._door, limits)


class TlsEntrance:
    def __init__(self, address: Address, settings: Settings) -> None:
        self.address = address
        self.files = files_of(settings)
        self._settings = settings
        self._context: ssl.SSLContext | None = None

    async def refresh(self) -> None:
        # The old context stays in force when the files do not make a new one: a renewal may be half done.
        self._context = await asyncio.to_thread(make_context, self._settings)

    def open(self, listening: socket.socket, server: web.Server, limits: Limits) -> Listener:
        return Listener(listening, server, CertificateDoor(self._settings), limits, lambda: self._context)


def entrances(settings: Settings) -> list[Entrance]:
    """What the settings ask for."""
    found: list[Entrance] = []
    if settings.listen_tcp is not None:
        found.append(TokenEntrance(settings.listen_tcp, settings.tcp_token_file))
    if settings.listen_tls is not None:
        found.append(TlsEntrance(settings.listen_tls, settings))
    return found


def problems(settings: Settings) -> list[ConfigurationError]:
    """What is wrong with the files of what the settings ask for. Blocks."""
    found: list[ConfigurationError] = []
    if settings.listen_tcp is not None:
        with _noted(found):
            read_token(settings.tcp_token_file)
    if settings.listen_tls is not None:
        with _noted(found):
            make_context(settings)
    return found


@contextlib.contextmanager
def _noted(found: list[ConfigurationError]) -> Iterator[None]:
    try:
        yield
    except ConfigurationError as error:
        found.append(error)


class Port:
    """Keeps one entrance open."""

    def __init__(self, entrance: Entrance, server: web.Server, limits: Limits) -> None:
        self._entrance = entrance
        self._server = server
        self._limits = limits
        self._listener: Listener | None = None
        self._socket: socket.socket | None = None
        self._stamp: Stamp | None = None
        self._told = ""

    async def tend(self) -> None:
        """Runs until it is cancelled."""
        try:
            while True:
                await self._look()
                await asyncio.sleep(self._limits.look_at_files)
        finally:
            if self._listener is not None:
                await self._listener.stop()
            if self._socket is not None:
                self._socket.close()

    async def _look(self) -> None:
        address = self._entrance.address
        stamp = await asyncio.to_thread(stamp_of, self._entrance.files)
        try:
            if stamp != self._stamp:
                # Remembered before: files that change while they are read are read once more.
                self._stamp = stamp
                await self._entrance.refresh()
                if self._listener is not None:
                    self._listener.outdate()
                    log.info(f"The files for {address} have changed and are in force.")
            elif self._listener is None and self._told:
                await self._entrance.refresh()
            if self._listener is None:
                self._socket = await asyncio.to_thread(listen, address)
                self._listener = self._entrance.open(self._socket, self._server, self._limits)
                self._listener.start()
                log.info(f"The API listens on {address}.")
            self._told = ""
        except (ConfigurationError, OSError) as error:
            if self._listener is not None:
                self._listener.outdate()
            trouble = "does not listen on" if self._listener is None else "cannot use the changed files for"
            sentence = f"The API {trouble} {address}: {error}"
            if sentence != self._told:
                log.error(sentence, message_id=Message.PORT_CLOSED)
            self._told = sentence


def stamp_of(files: tuple[Path, ...]) -> Stamp:
    """What changes when one of the files does: written, replaced, or gone. Blocks."""
    found: list[tuple[int, int, int] | None] = []
    for file in files:
        try:
            status = file.stat()
        except OSError:
            found.append(None)
        else:
            found.append((status.st_mtime_ns, status.st_ctime_ns, status.st_ino))
    return tuple(found)


def listen(address: Address) -> socket.socket:
    """A listening socket. OSError when the address is not ours or taken."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    both = family is socket.AF_INET6 and address.host == "::" and socket.has_dualstack_ipv6()
    return socket.create_server((address.host, address.port), family=family, backlog=BACKLOG, dualstack_ipv6=both)


class RemoteAccess:
    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, server: web.Server, limits: Limits) -> None:
        self._tasks = [
            asyncio.create_task(Port(entrance, server, limits).tend(), name=f"port {entrance.address}")
            for entrance in entrances(self._settings)
        ]

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task
        self._tasks = []
