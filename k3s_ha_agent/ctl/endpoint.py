"""Where the agent is: on this server's unix socket, or on another server over TLS with a client certificate."""

from __future__ import annotations

import dataclasses
import http.client
import os
import socket
import ssl
import urllib.parse
from pathlib import Path
from typing import Protocol

from k3s_ha_agent.errors import AgentUnreachable, ConfigurationError, Forbidden

CONNECT_TIMEOUT = 10.0
"""Seconds a connection to another server may take, TLS included."""
LOOK = "systemctl status k3s-ha-agent.service"


class Endpoint(Protocol):
    """Where to connect to, and how that is said to curl and on our own command line."""

    @property
    def base(self) -> str:
        """The URL that the path of a call is put behind."""

    @property
    def look(self) -> str:
        """What to do when no agent answers there."""

    def connect(self, timeout: float) -> http.client.HTTPConnection:
        """A connection whose answers may take ``timeout`` seconds. Raises Forbidden or AgentUnreachable."""

    def curl(self) -> list[str]: ...

    def refusal(self, error: Exception) -> AgentUnreachable | None:
        """What to raise when ``error`` says that the agent would not hear us at all; None: something else broke."""


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(os.fspath(self._path))


@dataclasses.dataclass(frozen=True, slots=True)
class UnixSocket:
    """The agent of this server; who may ask is decided by the socket's mode and the caller's uid."""

    path: Path
    base: str = "http://localhost"
    look: str = f"See: {LOOK}"

    def connect(self, timeout: float) -> http.client.HTTPConnection:
        connection = _UnixConnection(self.path, timeout)
        try:
            connection.connect()
        except OSError as error:
            connection.close()
            if isinstance(error, PermissionError):
                raise Forbidden(
                    f"This user may not open {self.path}.",
                    next_step="Run it as root (sudo), or as a member of the group that owns the socket.",
                ) from error
            raise AgentUnreachable(
                f"The agent does not answer on {self.path}: {describe(error)}.", next_step=self.look
            ) from error
        return connection

    def curl(self) -> list[str]:
        return ["--unix-socket", os.fspath(self.path)]

    def refusal(self, error: Exception) -> AgentUnreachable | None:
        return None


@dataclasses.dataclass(frozen=True, slots=True)
class Remote:
    """An agent with ``listen_tls``; made by ``remote``."""

    base: str
    cacert: Path
    cert: Path
    key: Path
    tls: ssl.SSLContext = dataclasses.field(repr=False)

    @property
    def look(self) -> str:
        return f"See on that server: {LOOK}; and listen_tls in its settings."

    def connect(self, timeout: float) -> http.client.HTTPConnection:
        parts = urllib.parse.urlsplit(self.base)
        connection = http.client.HTTPSConnection(
            parts.hostname or "", parts.port, timeout=CONNECT_TIMEOUT, context=self.tls
        )
        try:
            connection.connect()
        except ssl.SSLCertVerificationError as error:
            connection.close()
            raise AgentUnreachable(
                f"{self.base} cannot be trusted: {error.verify_message}.",
                next_step=f"Compare its certificate with {self.cacert}.",
            ) from error
        except OSError as error:
            connection.close()
            raise self.refusal(error) or AgentUnreachable(
                f"The agent does not answer on {self.base}: {describe(error)}.", next_step=self.look
            ) from error
        connection.sock.settimeout(timeout)
        return connection

    def curl(self) -> list[str]:
        said = (("--cacert", self.cacert), ("--cert", self.cert), ("--key", self.key))
        return [word for option, path in said for word in (option, os.fspath(path))]

    def refusal(self, error: Exception) -> AgentUnreachable | None:
        # In TLS 1.3 a server looks at the client's certificate after the client has finished its handshake,
        # so its alert comes where the answer should be (RFC 8446, 4.4.2.4 and 6.2). It heard no request.
        if not isinstance(error, ssl.SSLError) or "ALERT" not in (error.reason or ""):
            return None
        said = (error.reason or "").partition("ALERT_")[2].lower().replace("_", " ")
        return AgentUnreachable(
            f"{self.base} does not take the client certificate {self.cert}: {said}.",
            next_step="It has to be signed by that agent's tls_client_ca, and be valid today.",
        )


def remote(url: str, *, cacert: Path, cert: Path, key: Path) -> Remote:
    """ConfigurationError for a URL that is not https://host:port, and for files that cannot be used. Blocks."""
    try:
        parts = urllib.parse.urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ConfigurationError(f"{url!r} is not a URL: {error}.") from error
    if parts.scheme != "https" or not host or parts.username or parts.path not in ("", "/") or parts.query:
        raise ConfigurationError(f"{url!r} is not a URL like https://host:port.")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    current = cacert
    try:
        context.load_verify_locations(current)
        current = cert
        # A passphrase would be asked for in the middle of following something; an empty one is refused.
        context.load_cert_chain(current, key, password=lambda: "")
    except (OSError, ssl.SSLError, ValueError) as error:
        with_key = f" with its key {key}" if current is cert else ""
        raise ConfigurationError(f"{current}{with_key} cannot be used: {describe(error)}.") from error
    host = f"[{host}]" if ":" in host else host
    return Remote(f"https://{host}" + ("" if port is None else f":{port}"), cacert, cert, key, context)


def describe(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "it took too long"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return f"{type(error).__name__} {error}".strip()
