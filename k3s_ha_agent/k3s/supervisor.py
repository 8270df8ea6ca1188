"""A client of k3s's supervisor port (6443), on this server or on a peer.

Paths and who may ask them are those of k3s-facts, "HTTP endpoints". A peer is trusted by the CA
hash of a token, as k3s itself does when it joins; this server by ``tls/server-ca.crt``.
"""

from __future__ import annotations

import base64
import dataclasses
import email.utils
import json
import ssl
import time
from collections.abc import Mapping
from typing import Any, Self

from k3s_ha_agent.errors import SupervisorError, TokenError
from k3s_ha_agent.k3s import token as tokens
from k3s_ha_agent.k3s.etcd import Member, parse_members
from k3s_ha_agent.k3s.http_client import Answer, HttpClient, client_ssl
from k3s_ha_agent.k3s.layout import Layout

TIMEOUT = 10.0
"""Seconds for one answer."""


@dataclasses.dataclass(frozen=True, slots=True)
class DbInfo:
    """What ``/db/info`` says. It lists members during a conversion already: no proof of its end."""

    http_status: int
    """200 with members; 400 when the server is on SQLite (since 2024-11) and 500 when etcd has not
    started; 401 to the wrong user, on older releases also when on SQLite."""
    members: tuple[Member, ...]
    message: str


@dataclasses.dataclass(frozen=True, slots=True)
class Encryption:
    """Secrets encryption of a cluster (pkg/server/secrets-encrypt.go)."""

    enabled: bool
    stage: str
    """Of the rotation of its key: ``start``, ``prepare``, ``rotate``, ``reencrypt_request``, …"""
    hashes_match: bool
    """Whether all servers have the same keys."""


class Supervisor(HttpClient):
    """All methods raise SupervisorError when there is no answer in time or one that makes no sense."""

    def __init__(
        self,
        url: str,
        ssl_context: ssl.SSLContext | None,
        *,
        username: str = "",
        password: str = "",
        timeout: float = TIMEOUT,
    ) -> None:
        super().__init__(url, ssl_context, timeout=timeout, error=SupervisorError, who="The k3s supervisor")
        self._headers: dict[str, str] = {}
        if username or password:
            credentials = base64.b64encode(f"{username}:{password}".encode()).decode()
            self._headers["Authorization"] = f"Basic {credentials}"

    @classmethod
    def from_layout(
        cls, layout: Layout, port: int = 6443, *, username: str = "server", timeout: float = TIMEOUT
    ) -> Self:
        """The supervisor of this server, as ``server`` or ``node``, by its own CA and token. Blocks shortly.

        TokenError when there is no token.
        """
        password = tokens.read(layout).password
        try:
            context = client_ssl(str(layout.server_ca))
        except OSError as error:
            raise SupervisorError(
                f"The k3s supervisor cannot be asked, {layout.server_ca} cannot be read: {error.strerror or error}."
            ) from error
        return cls(f"https://127.0.0.1:{port}", context, username=username, password=password, timeout=timeout)

    @classmethod
    async def of_peer(
        cls, url: str, token: tokens.Token, *, username: str | None = None, timeout: float = TIMEOUT
    ) -> Self:
        """The supervisor of another server, trusted by the CA hash of the token.

        TokenError when the token has no CA hash or the server shows another CA: the password is
        never sent to a server that has not proven itself.
        """
        if not token.ca_hash:
            raise TokenError(
                "The token is a bare password and cannot prove which cluster answers.",
                next_step="Use the whole token (K10…) from server/token of a server.",
            )
        bundle = await fetch_cacerts(url, timeout=timeout)
        found = tokens.ca_hash(bundle)
        if found != token.ca_hash:
            raise TokenError(f"The server at {url} has the CA {found}, the token is for {token.ca_hash}.")
        try:
            context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cadata=bundle.decode("ascii"))
        except (ssl.SSLError, UnicodeDecodeError) as error:
            raise SupervisorError(f"The CA bundle of {url} cannot be used: {error}.") from error
        name = token.username if username is None else username
        return cls(url, context, username=name, password=token.password, timeout=timeout)

    async def ping(self) -> bool:
        """Whether it answers ``/ping`` with ``pong``. SupervisorError when it does not answer at all."""
        answer = await self.request("GET", "/ping")
        return answer.status == 200 and answer.body.strip() == b"pong"

    async def cacerts(self) -> bytes:
        """The CA bundle of the cluster, PEM as it is."""
        return (await self._get("/cacerts")).body

    async def readyz(self) -> tuple[bool, str]:
        """Whether its runtime core is ready (``/v1-k3s/readyz``, as ``node``), and what it said."""
        answer = await self.request("GET", "/v1-k3s/readyz", headers=self._headers)
        return answer.status == 200, f"HTTP {answer.status}: {answer.text().strip()[:200]}"

    async def db_info(self) -> DbInfo:
        """Members by ``/db/info``, as ``server``; any status is an answer."""
        answer = await self.request("GET", "/db/info", headers=self._headers)
        return parse_db_info(answer.status, answer.text())

    async def config(self) -> Mapping[str, Any]:
        """The server's effective configuration (``/v1-k3s/config``, as ``node`` or ``server``)."""
        answer = await self._get("/v1-k3s/config")
        return parse_config(answer.text())

    async def encryption(self) -> Encryption:
        """The state of secrets encryption (``/v1-k3s/encrypt/status``, as ``server``; since 2021-12)."""
        answer = await self._get("/v1-k3s/encrypt/status")
        return parse_encryption(answer.text())

    async def server_bootstrap(self) -> str:
        """The bootstrap data (``/v1-k3s/server-bootstrap``, as ``server``). Secret: it holds the CA keys."""
        return (await self._get("/v1-k3s/server-bootstrap")).text()

    async def _get(self, path: str) -> Answer:
        answer = await self.request("GET", path, headers=self._headers)
        if answer.status != 200:
            raise self.problem(
                f"refused {path} with HTTP {answer.status}: {message_of(answer.text())}.", http_status=answer.status
            )
        return answer


@dataclasses.dataclass(frozen=True, slots=True)
class Greeting:
    """What a server tells anyone. Nothing in it is trusted."""

    cacerts: bytes
    """The CA bundle it shows, PEM: compare its hash first."""
    clock_offset: float | None
    """Seconds its clock is ahead of ours, right to about one; None when it does not say the time."""


async def greet(url: str, *, timeout: float = TIMEOUT) -> Greeting:
    """The CA bundle a server shows to anyone, and its time by the header ``Date``."""
    untrusting = ssl.create_default_context()
    untrusting.check_hostname = False
    untrusting.verify_mode = ssl.CERT_NONE
    async with Supervisor(url, untrusting, timeout=timeout) as stranger:
        before = time.time()
        answer = await stranger.request("GET", "/cacerts")
        after = time.time()
        if answer.status != 200:
            raise stranger.problem(
                f"refused /cacerts with HTTP {answer.status}: {message_of(answer.text())}.", http_status=answer.status
            )
    return Greeting(answer.body, clock_offset(answer.date, (before + after) / 2))


def clock_offset(date: str, here: float) -> float | None:
    """Seconds from ``here`` to an HTTP date, which is cut off to whole seconds."""
    try:
        return email.utils.parsedate_to_datetime(date).timestamp() + 0.5 - here
    except (ValueError, TypeError):
        return None


async def fetch_cacerts(url: str, *, timeout: float = TIMEOUT) -> bytes:
    """The CA bundle a server shows to anyone. Nothing is trusted for it: compare its hash first."""
    return (await greet(url, timeout=timeout)).cacerts


def parse_db_info(status: int, text: str) -> DbInfo:
    """``/db/info``. SupervisorError when a 200 has no list of members."""
    if status != 200:
        return DbInfo(status, (), message_of(text))
    try:
        return DbInfo(status, tuple(parse_members(json.loads(text))), "")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SupervisorError("The answer of /db/info is not understood.") from error


def parse_config(text: str) -> Mapping[str, Any]:
    """``/v1-k3s/config``: Go's field names (``ClusterInit``, ``ServiceIPRange``). Holds secrets."""
    try:
        config = json.loads(text)
    except ValueError as error:
        raise SupervisorError("The answer of /v1-k3s/config is not JSON.") from error
    if not isinstance(config, dict):
        raise SupervisorError("The answer of /v1-k3s/config is not a JSON object.")
    return config


def parse_encryption(text: str) -> Encryption:
    """``/v1-k3s/encrypt/status``. SupervisorError when it is not understood."""
    try:
        answer = json.loads(text)
        return Encryption(bool(answer.get("enable")), str(answer.get("stage", "")), bool(answer.get("hashmatch")))
    except (ValueError, AttributeError) as error:
        raise SupervisorError("The answer of /v1-k3s/encrypt/status is not understood.") from error


def parse_passwd(text: str) -> dict[str, str]:
    """Passwords by user out of ``cred/passwd`` (``password,name,uid,role`` a line)."""
    rows = (line.split(",") for line in text.splitlines() if line.strip())
    return {row[1]: row[0] for row in rows if len(row) >= 2}


def message_of(text: str) -> str:
    """What a refusal says: the message of a Status object, or the text."""
    try:
        return str(json.loads(text)["message"])
    except (ValueError, KeyError, TypeError):
        return text.strip()[:200]
