"""Where an agent listens, and what it takes to be let in there."""

from __future__ import annotations

import dataclasses
import re
import ssl
import urllib.parse
from pathlib import Path

from k3s_ha_agent.errors import ConfigurationError

DEFAULT_SOCKET = Path("/run/k3s-ha-agent/api.sock")
LOOPBACK = ("127.0.0.1", "::1", "localhost")
"""The hosts a plain connection may go to: nothing secret may cross a network unencrypted."""

_HOST_AND_PORT = re.compile(r"(?:\[[0-9A-Fa-f:]+\]|[A-Za-z0-9.-]+):[0-9]{1,5}")


@dataclasses.dataclass(frozen=True, slots=True)
class Endpoint:
    """Made by ``unix_socket``, ``https`` or ``loopback``."""

    url: str
    """Scheme, host and port; no path and no slash at the end."""
    socket: Path | None = None
    tls: ssl.SSLContext | None = None
    bearer_token: str | None = dataclasses.field(default=None, repr=False)
    host: str | None = None
    """The Host to ask for when it is not the one of ``url``: an agent answers to its own addresses only."""

    @property
    def name(self) -> str:
        """How people know it."""
        return self.url if self.socket is None else f"unix:{self.socket}"

    @property
    def private(self) -> bool:
        """True when nobody in between can read a secret in a body: a unix socket, or TLS."""
        return self.socket is not None or self.tls is not None


def unix_socket(path: Path = DEFAULT_SOCKET) -> Endpoint:
    """The agent of this machine. Who may ask is decided by the socket's mode and the caller's uid."""
    return Endpoint("http://localhost", socket=path)


def https(url: str, tls: ssl.SSLContext) -> Endpoint:
    """An agent with TLS 1.3 and client certificates; ``tls`` as from ``tls_context``.

    ConfigurationError for another URL, and for a context that does not check whom it talks to.
    """
    if tls.verify_mode is not ssl.CERT_REQUIRED:
        raise ConfigurationError(
            f"The TLS context for {url} does not check the agent's certificate.", next_step="Use tls_context()."
        )
    return Endpoint(_base(url, "https"), tls=tls)


def loopback(url: str, bearer_token: str, *, tunnel_to: str | None = None) -> Endpoint:
    """An agent's plain TCP listener on this machine, or the local end of a tunnel to it.

    ``tunnel_to``: where the tunnel ends, which is the agent's ``listen_tcp``, like ``127.0.0.1:9580``; needed when its
    port is another one than that of ``url``. ConfigurationError when the host of ``url`` is not a loopback one: the
    bearer token would be readable.
    """
    base = _base(url, "http")
    if urllib.parse.urlsplit(base).hostname not in LOOPBACK:
        raise ConfigurationError(
            f"{url} is not on this machine; a bearer token is sent to a loopback address only.",
            next_step="Use https:// with a client certificate.",
        )
    if not bearer_token or any(not "!" <= character <= "~" for character in bearer_token):
        raise ConfigurationError(f"The bearer token for {url} is empty or has characters a header cannot carry.")
    if tunnel_to is not None and not _HOST_AND_PORT.fullmatch(tunnel_to):
        raise ConfigurationError(f"tunnel_to {tunnel_to!r} is not like 127.0.0.1:9580.")
    return Endpoint(base, bearer_token=bearer_token, host=tunnel_to)


def _base(url: str, scheme: str) -> str:
    try:
        parts = urllib.parse.urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ConfigurationError(f"{url!r} is not a URL: {error}.") from error
    if parts.scheme != scheme or not host or parts.username or parts.query or parts.fragment:
        raise ConfigurationError(f"{url!r} is not a URL like {scheme}://host:port.")
    if parts.path not in ("", "/"):
        raise ConfigurationError(f"{url!r} has a path; the API has paths of its own.")
    host = f"[{host}]" if ":" in host else host
    return f"{scheme}://{host}" + ("" if port is None else f":{port}")


def tls_context(ca: Path, cert: Path, key: Path) -> ssl.SSLContext:
    """A TLS 1.3 context that trusts ``ca`` alone and shows ``cert`` (PEM files). Reads files: blocks.

    ConfigurationError says which file cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        context.load_verify_locations(ca)
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(f"The CA certificate {ca} cannot be used: {_why(error)}.") from error
    try:
        # An encrypted key would ask on the terminal, in the middle of everything.
        context.load_cert_chain(cert, key, password=_no_password)
    except (OSError, ssl.SSLError, ValueError) as error:
        raise ConfigurationError(
            f"The client certificate {cert} with its key {key} cannot be used: {_why(error)}."
        ) from error
    return context


def _no_password() -> str:
    raise ValueError("the key is encrypted")


def _why(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
