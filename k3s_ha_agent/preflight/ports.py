"""The ports k3s's etcd listens on."""

from __future__ import annotations

from k3s_ha_agent.k3s.version import Version

ALWAYS = (2379, 2380, 2381, 2382)
"""Clients, peers, metrics, HTTP (k3s-facts 4.5). 2382 only since 2023-09, but an upgrade needs it."""

TEMPORARY = (2399, 2400)
"""The temporary etcd k3s runs on a copy at each start of an initialised server, until 2026-01."""

_NO_TEMPORARY = Version.parse("v1.35.1+k3s1")
_NO_TEMPORARY_1_34 = Version.parse("v1.34.3+k3s3")


def needed(version: Version) -> tuple[int, ...]:
    """The ports a server of this version needs free for etcd.

    The temporary etcd is gone since v1.34.3+k3s3 and v1.35.1 (k3s-facts 4.8, 2026-01); for every
    other release its ports are asked for.
    """
    gone = version >= _NO_TEMPORARY or (version.release[:2] == (1, 34) and version >= _NO_TEMPORARY_1_34)
    return ALWAYS if gone else ALWAYS + TEMPORARY


ALL = ALWAYS + TEMPORARY


def of_a_server(api_port: int) -> tuple[int, ...]:
    """What else a server that starts for the first time listens on: the supervisor, the API server behind it, the
    kubelet (k3s-facts 4.3 and 4.5)."""
    return (api_port, api_port + 1, 10250)
