"""Which addresses k3s was told to use."""

from __future__ import annotations

from k3s_ha_agent.k3s.configuration import Configuration


def parts(configuration: Configuration, flag: str) -> list[str]:
    """The values of a flag that may be repeated and may hold several, separated by commas."""
    values = (setting.value.split(",") for setting in configuration.values(flag))
    return [part.strip() for several in values for part in several if part.strip()]


def pinned(configuration: Configuration) -> list[str]:
    """The addresses of ``node-ip``. etcd's peer address is the first of them (M17)."""
    return parts(configuration, "node-ip")
