"""What the administrator told etcd through k3s (``etcd-arg``)."""

from __future__ import annotations

from k3s_ha_agent.k3s.configuration import Configuration


def etcd_limit(configuration: Configuration, name: str, default: int) -> int | str:
    """The number etcd is given for ``name``, the last one in effect, or its default.

    A sentence when it is not a number. k3s writes ``key=value`` arguments into etcd's configuration
    file (ToConfigFile, k3s-facts 4.1).
    """
    found: int | str = default
    for setting in configuration.values("etcd-arg"):
        key, _, value = str(setting.value).removeprefix("--").partition("=")
        if key.strip() != name:
            continue
        try:
            found = int(value)
        except ValueError:
            found = f"{setting.source} sets {name} to {value!r}, which is not a number."
    return found
