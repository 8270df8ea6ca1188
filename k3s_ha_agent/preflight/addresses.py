"""Which addresses k3s was told to use, and which it takes when it was told nothing."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from k3s_ha_agent.host.addresses import InterfaceAddress
from k3s_ha_agent.k3s.configuration import Configuration

_UP = 0x1
_REJECT = 0x200


def parts(configuration: Configuration, flag: str) -> list[str]:
    """The values of a flag that may be repeated and may hold several, separated by commas."""
    values = (setting.value.split(",") for setting in configuration.values(flag))
    return [part.strip() for several in values for part in several if part.strip()]


def pinned(configuration: Configuration) -> list[str]:
    """The addresses of ``node-ip``, as Go and the Node write them; etcd's peer address is the first of them (M17).

    What is no address stays as it is: the check ``dual-stack`` says so.
    """
    return [_written(part) for part in parts(configuration, "node-ip")]


def _written(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return text


def default_interface(routes: str) -> str | None:
    """The interface of the first IPv4 default route in the text of ``/proc/net/route``.

    k3s asks k8s.io/apimachinery's ChooseHostInterface, which reads this file.
    """
    for line in routes.splitlines()[1:]:
        fields = line.split()
        if len(fields) < 8 or fields[1] != "00000000" or fields[7] != "00000000":
            continue
        flags = int(fields[3], 16)
        if flags & _UP and not flags & _REJECT:
            return fields[0]
    return None


def default_address(routes: str, found: Iterable[InterfaceAddress]) -> str | None:
    """The first global IPv4 address of that interface; None when there is no such route."""
    interface = default_interface(routes)
    for each in found:
        address = each.address
        if each.interface == interface and address.version == 4 and not (address.is_loopback or address.is_link_local):
            return str(address)
    return None


def own(configuration: Configuration, default: str | None) -> str | None:
    """The address etcd will know this server by: the first ``node-ip``, else the default route's (M17)."""
    fixed = pinned(configuration)
    return fixed[0] if fixed else default
