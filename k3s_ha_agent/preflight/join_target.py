"""The server through which a cluster is to be joined, and the token that opens it."""

from __future__ import annotations

import dataclasses
import urllib.parse

from k3s_ha_agent.k3s.token import Token
from k3s_ha_agent.preflight.identity import DEFAULT_PORT


@dataclasses.dataclass(frozen=True, slots=True)
class JoinTarget:
    """``repr`` shows no password (Token's does not)."""

    url: str
    """Like ``https://10.99.0.11:6443``, as k3s's ``server:`` takes it."""
    token: Token

    @property
    def host(self) -> str:
        return urllib.parse.urlsplit(self.url).hostname or ""

    @property
    def port(self) -> int:
        return urllib.parse.urlsplit(self.url).port or DEFAULT_PORT

    def problem(self) -> str | None:
        """Why the URL cannot be used, a sentence without what it may hold of credentials; None when it can."""
        try:
            parts = urllib.parse.urlsplit(self.url)
            port = parts.port
        except ValueError:
            return "The address of the server is no URL."
        if "@" in parts.netloc:
            return "The address of the server holds a user name; the token goes into a field of its own."
        if parts.scheme != "https" or not parts.hostname:
            return f"{self.url} is not like https://HOST:6443."
        if port is None:
            return f"{self.url} names no port; k3s itself would take 443."
        if parts.path.strip("/") or parts.query or parts.fragment:
            return f"{self.url} has more in it than a host and a port."
        return None
