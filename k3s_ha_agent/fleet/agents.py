"""From ``fleet.yaml`` to clients of the agents: certificates, bearer tokens, server tokens. Reads files: blocks."""

from __future__ import annotations

import ssl
import urllib.parse
from collections.abc import Iterable, Mapping
from pathlib import Path

from k3s_ha_agent.client import Endpoint, https, loopback, tls_context, unix_socket
from k3s_ha_agent.errors import ConfigurationError
from k3s_ha_agent.fleet.configuration import Cluster, Fleet, Server


def endpoints(fleet: Fleet, clusters: Iterable[Cluster]) -> Mapping[tuple[str, str], Endpoint]:
    """The endpoint of every server, by cluster and server. ConfigurationError for what cannot be used."""
    context = None if fleet.tls is None else tls_context(fleet.tls.ca, fleet.tls.cert, fleet.tls.key)
    secrets: dict[Path, str] = {}
    return {
        (cluster.name, server.name): _endpoint(server, context, secrets)
        for cluster in clusters
        for server in cluster.servers
    }


def _endpoint(server: Server, context: ssl.SSLContext | None, secrets: dict[Path, str]) -> Endpoint:
    parts = urllib.parse.urlsplit(server.agent)
    if parts.scheme == "unix":
        if parts.netloc or not parts.path.startswith("/"):
            raise ConfigurationError(f"{server.agent} is not like unix:/run/k3s-ha-agent/api.sock.")
        return unix_socket(Path(parts.path))
    if parts.scheme == "https" and context is not None:
        return https(server.agent, context)
    if server.bearer_token_file is None:
        raise ConfigurationError(f"{server.agent} needs bearer_token_file.")
    if server.bearer_token_file not in secrets:
        secrets[server.bearer_token_file] = read_secret(server.bearer_token_file)
    return loopback(server.agent, secrets[server.bearer_token_file], tunnel_to=server.tunnel_to)


def tokens(clusters: Iterable[Cluster]) -> Mapping[str, str]:
    """The server token of each cluster that has it in a file of the controller."""
    return {
        cluster.name: read_secret(cluster.options.controller_token_file)
        for cluster in clusters
        if cluster.options.controller_token_file is not None and len(cluster.servers) > 1
    }


def read_secret(path: Path) -> str:
    """The text of a file that nobody but its owner (and his group) may read."""
    try:
        if path.stat().st_mode & 0o007:
            raise ConfigurationError(f"{path} holds a secret and everybody may read it.", next_step=f"chmod 600 {path}")
        text = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not text"
        raise ConfigurationError(f"{path} cannot be read: {why}.") from error
    if not text:
        raise ConfigurationError(f"{path} is empty.")
    return text
