"""The addresses of this machine, and whether somebody may take them away: rtnetlink(7).

etcd's member is bound to the node's address (k3s-facts M17: after a change k3s loops for ever with
"this server is a not a member of the etcd cluster"). An address with a limited lifetime was given by
DHCP or router advertisement; the kernel knows, whoever configured it.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import os
import socket
import struct
from collections.abc import Iterator

_RTM_NEWADDR, _RTM_GETADDR = 20, 22
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_NLM_F_REQUEST, _NLM_F_DUMP = 0x001, 0x300
_IFA_ADDRESS, _IFA_LOCAL, _IFA_CACHEINFO, _IFA_FLAGS = 1, 2, 6, 8
_IFA_F_PERMANENT = 0x80
_FOREVER = 0xFFFFFFFF
_TIMEOUT = 5.0

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclasses.dataclass(frozen=True, slots=True)
class InterfaceAddress:
    interface: str
    address: Address
    prefix: int
    dynamic: bool
    """It has a lifetime, so something renews it, or does not."""


def addresses() -> tuple[InterfaceAddress, ...]:
    """All addresses of this network namespace. OSError when the kernel does not answer."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as netlink:
        netlink.settimeout(_TIMEOUT)
        netlink.bind((0, 0))
        body = struct.pack("=BBBBi", socket.AF_UNSPEC, 0, 0, 0, 0)
        header = struct.pack("=IHHII", 16 + len(body), _RTM_GETADDR, _NLM_F_REQUEST | _NLM_F_DUMP, 1, 0)
        netlink.send(header + body)
        found: list[InterfaceAddress] = []
        while True:
            more, done = parse_messages(netlink.recv(1 << 20))
            found += (dataclasses.replace(each, interface=_interface(each.interface)) for each in more)
            if done:
                return tuple(found)


def address_is_dynamic(ip: str) -> bool | None:
    """Whether this address of this machine has a lifetime; None when the machine does not have it."""
    wanted = ipaddress.ip_address(ip)
    return next((each.dynamic for each in addresses() if each.address == wanted), None)


def parse_messages(data: bytes) -> tuple[list[InterfaceAddress], bool]:
    """Addresses of one netlink datagram, with the interface's number as its name, and whether it was the last."""
    found: list[InterfaceAddress] = []
    position = 0
    while position + 16 <= len(data):
        length, kind = struct.unpack_from("=IH", data, position)
        if kind == _NLMSG_DONE:
            return found, True
        if kind == _NLMSG_ERROR:
            number = -struct.unpack_from("=i", data, position + 16)[0]
            raise OSError(number, os.strerror(number))
        if kind == _RTM_NEWADDR:
            found.append(_address(data[position + 16 : position + length]))
        position += (length + 3) & ~3
    return found, False


def _address(body: bytes) -> InterfaceAddress:
    """struct ifaddrmsg and its attributes."""
    _, prefix, flags, _, index = struct.unpack_from("=BBBBi", body)
    attributes = dict(_attributes(body[8:]))
    raw = attributes.get(_IFA_LOCAL) or attributes[_IFA_ADDRESS]
    if _IFA_FLAGS in attributes:  # the byte in the header is too small for the newer flags
        (flags,) = struct.unpack("=I", attributes[_IFA_FLAGS])
    valid = _FOREVER
    if _IFA_CACHEINFO in attributes:
        _, valid = struct.unpack_from("=II", attributes[_IFA_CACHEINFO])
    dynamic = not flags & _IFA_F_PERMANENT or valid != _FOREVER
    return InterfaceAddress(str(index), ipaddress.ip_address(raw), prefix, dynamic)


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    position = 0
    while position + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, position)
        yield kind, data[position + 4 : position + length]
        position += (length + 3) & ~3


def _interface(index: str) -> str:
    try:
        return socket.if_indextoname(int(index))
    except OSError:
        return index  # gone meanwhile
