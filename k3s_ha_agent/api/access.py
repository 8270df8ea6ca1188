"""Who is asking, and what they may do.

On the unix socket the kernel says who is asking: SO_PEERCRED gives the uid and gid, SO_PEERGROUPS the
supplementary groups, both as they were when the peer connected. Reading is allowed to whoever can
open the socket (its mode decides that); changing anything needs root or the socket's group. Every
doubt is a refusal.
"""

from __future__ import annotations

import dataclasses
import enum
import socket
import struct
from typing import Protocol

from aiohttp import web

from k3s_ha_agent.errors import Forbidden

SO_PEERGROUPS = 59
"""include/uapi/asm-generic/socket.h, Linux 4.13 and newer; Python has no name for it."""
_CREDENTIALS = struct.Struct("=iII")
_GROUPS_BYTES = 1024
"""The most ``getsockopt`` of Python takes: 256 groups. A peer with more is refused."""


class Role(enum.StrEnum):
    """What a route needs."""

    ANYONE = "anyone"
    READ = "read"
    METRICS = "metrics"
    ADMIN = "admin"


EVERY_ROLE = frozenset(Role)


@dataclasses.dataclass(frozen=True, slots=True)
class Peer:
    """The process at the other end of a unix socket, as the kernel knows it."""

    pid: int
    uid: int
    gid: int
    groups: frozenset[int]


@dataclasses.dataclass(frozen=True, slots=True)
class Caller:
    """Who is asking. ``name`` goes into records and the log."""

    name: str
    roles: frozenset[Role]
    pid: int
    """0 when it is on another machine, or not known."""
    via: str = "socket"
    """``socket``, ``tcp`` or ``tls``."""

    @property
    def confidential(self) -> bool:
        """Whether nobody else on the way could read what it sends, or pretend to be the agent."""
        return self.via in ("socket", "tls")


class SocketOptions(Protocol):
    """The part of a socket that is needed here; asyncio hands out a wrapper, not the socket."""

    def getsockopt(self, level: int, optname: int, buflen: int, /) -> bytes: ...


def read_peer(sock: SocketOptions) -> Peer:
    """The peer of a connected unix socket. OSError when the kernel does not say."""
    pid, uid, gid = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    packed = sock.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, _GROUPS_BYTES)
    groups = struct.unpack(f"={len(packed) // 4}I", packed)
    return Peer(pid, uid, gid, frozenset(groups))


def roles_of(peer: Peer, socket_gid: int | None) -> frozenset[Role]:
    """``socket_gid`` None: the configured group does not exist, only root may change anything."""
    roles = {Role.ANYONE, Role.READ, Role.METRICS}
    member = socket_gid is not None and (peer.gid == socket_gid or socket_gid in peer.groups)
    if peer.uid == 0 or member:
        roles.add(Role.ADMIN)
    return frozenset(roles)


def identify(request: web.Request, socket_gid: int | None) -> Caller:
    """The caller of a request. Forbidden when it cannot be told who that is."""
    transport = request.transport
    sock = None if transport is None else transport.get_extra_info("socket")
    if sock is None or sock.family != socket.AF_UNIX:
        raise Forbidden("It cannot be told who is asking.", next_step="Connect over the agent's unix socket.")
    try:
        peer = read_peer(sock)
    except (OSError, struct.error) as error:
        raise Forbidden(
            f"The kernel does not say who is asking ({error}).",
            next_step="Ask as root, or as a user with at most 256 groups.",
        ) from error
    return Caller(f"uid {peer.uid}", roles_of(peer, socket_gid), peer.pid)


class SocketDoor:
    """The unix socket. ``gid``: the group that may change things."""

    def __init__(self, gid: int | None) -> None:
        self._gid = gid

    def identify(self, request: web.Request, /) -> Caller:
        return identify(request, self._gid)


def require(caller: Caller, role: Role) -> None:
    """Forbidden when the caller has not got the role."""
    if role not in caller.roles and caller.via == "tls":
        raise Forbidden(
            f"The certificate {caller.name} has not got the role {role}.",
            next_step=f"Give it by the setting tls_{role} of this agent.",
        )
    if role not in caller.roles:
        raise Forbidden(
            f"{caller.name} may not change anything on this server.",
            next_step="Run it as root (sudo), or as a member of the group that owns the agent's socket.",
        )
