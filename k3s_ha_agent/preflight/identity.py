"""What this server is called and where its API listens, by k3s's configuration."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path

from k3s_ha_agent.k3s.configuration import Configuration
from k3s_ha_agent.preflight.results import Missing
from k3s_ha_agent.preflight.sayings import off

DEFAULT_PORT = 6443
NODE_ID = "etc/rancher/node/id"


def node_name(configuration: Configuration | Missing, root: Path) -> str:
    """The name of this server's Node: ``node-name`` or the hostname, in lower case, with the id k3s
    keeps in ``etc/rancher/node/id`` when ``with-node-id`` is on. Reads that small file."""
    name = socket.gethostname()
    if isinstance(configuration, Missing):
        return name.lower()
    setting = configuration.get("node-name")
    name = setting.value if setting is not None and setting.value else name
    if _with_id(configuration):
        # Without the id there is no Node of this name, which is what the check ``node`` then says.
        with contextlib.suppress(OSError, UnicodeDecodeError):
            name = f"{name}-{(root / NODE_ID).read_text().strip()}"
    return name.lower()


def node_id_missing(configuration: Configuration | Missing, root: Path) -> bool:
    """Whether the Node's name will have an id in it that k3s makes at its first start."""
    return not isinstance(configuration, Missing) and _with_id(configuration) and not (root / NODE_ID).exists()


def _with_id(configuration: Configuration) -> bool:
    with_id = configuration.get("with-node-id")
    return with_id is not None and not off(with_id)


def api_port(configuration: Configuration | Missing) -> int:
    """The port of the API server: ``https-listen-port`` or 6443."""
    setting = None if isinstance(configuration, Missing) else configuration.get("https-listen-port")
    return int(setting.value) if setting is not None and setting.value.isdigit() else DEFAULT_PORT
