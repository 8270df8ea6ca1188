"""What this server is called and where its API listens, by k3s's configuration."""

from __future__ import annotations

import socket
from pathlib import Path

from k3s_ha_agent.k3s.configuration import Configuration
from k3s_ha_agent.preflight.results import Missing

DEFAULT_PORT = 6443


def node_name(configuration: Configuration | Missing, root: Path) -> str:
    """The name of this server's Node: ``node-name`` or the hostname, in lower case, with the id k3s
    keeps in ``etc/rancher/node/id`` when ``with-node-id`` is on. Reads that small file."""
    name, with_id = socket.gethostname(), False
    if not isinstance(configuration, Missing):
        setting = configuration.get("node-name")
        name = setting.value if setting is not None and setting.value else name
        with_id = configuration.flag("with-node-id")
    if with_id:
        try:
            name = f"{name}-{(root / 'etc/rancher/node/id').read_text().strip()}"
        except FileNotFoundError:
            pass  # k3s has not made it yet; then there is no Node yet either
    return name.lower()


def api_port(configuration: Configuration | Missing) -> int:
    """The port of the API server: ``https-listen-port`` or 6443."""
    setting = None if isinstance(configuration, Missing) else configuration.get("https-listen-port")
    return int(setting.value) if setting is not None and setting.value.isdigit() else DEFAULT_PORT
