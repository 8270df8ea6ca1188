"""Proxies in k3s's environment, and whom they leave out, as Go's golang.org/x/net/http/httpproxy reads them (J8)."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from k3s_ha_agent.k3s.environment_file import parse_environment_file
from k3s_ha_agent.preflight.cluster import Proxies

VARIABLES = ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy")
EXEMPT = ("NO_PROXY", "no_proxy")


def read(unit: str, environment: Mapping[str, str], files: Sequence[Path], root: Path) -> Proxies:
    """Of the unit's environment and its files below ``root``, a missing one says nothing. Blocks.

    OSError when one cannot be read.
    """
    sources: list[tuple[str, Mapping[str, str]]] = [(f"Environment= of {unit}", environment)]
    for path in files:
        try:
            sources.append(
                (str(path), parse_environment_file((root / path.relative_to("/")).read_text(errors="surrogateescape")))
            )
        except (FileNotFoundError, NotADirectoryError):
            continue
    return of(sources)


def of(sources: Iterable[tuple[str, Mapping[str, str]]]) -> Proxies:
    """Of (source, variables), weakest first."""
    found: dict[str, tuple[str, str]] = {}
    for source, variables in sources:
        found.update({n: (variables[n], source) for n in (*VARIABLES, *EXEMPT) if n in variables})
    # Go takes the upper-case one when it is not empty.
    exempt = next((found[n][0] for n in EXEMPT if n in found and found[n][0]), "")
    return Proxies(
        variables=tuple(f"{n} in {found[n][1]}" for n in VARIABLES if n in found and found[n][0]),
        exempt=tuple(part.strip().lower() for part in exempt.split(",") if part.strip()),
    )


def is_exempt(host: str, entries: Iterable[str]) -> bool:
    """Whether NO_PROXY leaves a host out: ``*``, an address, a network, a name or the domain above it."""
    host = host.lower().rstrip(".")
    return any(_covers(entry, host) for entry in entries)


def _covers(entry: str, host: str) -> bool:
    if entry == "*":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        name = entry.partition(":")[0].removeprefix("*")
        return host == name or host.endswith(name if name.startswith(".") else f".{name}")
    try:
        return address in ipaddress.ip_network(entry, strict=False)
    except ValueError:
        return False
