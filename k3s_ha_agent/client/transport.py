"""One question and its answer over HTTP: time limits, and asking again where that is safe.

An agent is restarted by its packages, by its watchdog and by people, and a controller's line to it
breaks; all of that looks alike from here. So a question is asked again for ``patience`` seconds, as
long as asking twice cannot do anything twice: reading, a dry run, or a request that carries an
idempotency key. Anything else is asked again only when it was not sent.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import ssl
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import aiohttp

from k3s_ha_agent.client.endpoint import Endpoint
from k3s_ha_agent.client.problems import AnswerLost, AnswerUnreadable, error_of
from k3s_ha_agent.errors import AgentError, AgentUnreachable, Forbidden

CONNECT_TIMEOUT = 10.0
"""Seconds a connection may take, TLS included."""
ANSWER_LIMIT = 32 * 1024 * 1024
"""Bytes of an answer."""
FIRST_PAUSE = 0.1
LONGEST_PAUSE = 5.0
LATER = (429, 503)
"""Statuses of "ask again later": nothing was done."""
SILENCE = 60.0
"""Seconds of silence on an event stream; the agent breaks it every 15 seconds."""
IN_BETWEEN = (502, 503, 504)
"""What something between us and the agent says when it lost the agent."""


class Later(Exception):
    """The agent is starting, stopping, or is asked too much: nothing was done. ``pause``: seconds it wants."""

    def __init__(self, error: AgentError, pause: float) -> None:
        super().__init__(str(error))
        self.error = error
        self.pause = pause


NETWORK = (AgentError, Later, aiohttp.ClientError, OSError, TimeoutError)
"""What asking may raise before ``Retry`` has looked at it."""


class Transport:
    """Connections to one agent. ``patience``: seconds an agent that went away is waited for."""

    def __init__(self, endpoint: Endpoint, patience: float) -> None:
        self.endpoint = endpoint
        self.patience = patience
        self._away_since: float | None = None
        self._session: aiohttp.ClientSession | None = None

    @property
    def away(self) -> float | None:
        """Seconds since the agent stopped answering; None while it answers."""
        return None if self._away_since is None else _clock() - self._away_since

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def ask(
        self,
        method: str,
        target: str,
        *,
        timeout: float,
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        safe: bool,
    ) -> tuple[Any, Mapping[str, str]]:
        """The JSON answer and its headers. ``safe``: asking twice does nothing twice.

        Raises the error of the agent's problem document; AgentUnreachable when it did not answer
        for ``patience`` seconds, AnswerLost at once when the question is not safe and may have been
        heard.
        """
        retry = Retry(self)
        while True:
            try:
                async with asyncio.timeout(timeout):
                    response = await self._send(method, target, body, headers or {})
                    try:
                        answer = await _read_json(response)
                    finally:
                        response.release()
            except NETWORK as error:
                await retry.after(error, safe=safe)
            else:
                self.answered()
                return answer, response.headers

    async def stream(self, target: str, headers: Mapping[str, str]) -> AsyncGenerator[bytes, None]:
        """The body of an answer as it comes, which may be silent for SILENCE. Raises NETWORK."""
        async with asyncio.timeout(CONNECT_TIMEOUT + SILENCE):
            response = await self._send("GET", target, None, headers)
        try:
            if response.content_type != "text/event-stream":
                raise AnswerUnreadable(f"{self.endpoint.name} answered {response.content_type}, not events.")
            self.answered()
            while data := await asyncio.wait_for(response.content.readany(), SILENCE):
                yield data
        finally:
            response.close()

    def answered(self) -> None:
        self._away_since = None

    def lost(self) -> None:
        """The agent did not answer."""
        if self._away_since is None:
            self._away_since = _clock()

    async def _send(
        self, method: str, target: str, body: Mapping[str, Any] | None, headers: Mapping[str, str]
    ) -> aiohttp.ClientResponse:
        """A response that is no error; its body is still to be read."""
        response = await self._open().request(
            method,
            self.endpoint.url + target,
            data=None if body is None else json.dumps(body).encode(),
            headers={**({} if body is None else {"Content-Type": "application/json"}), **headers},
            # An agent sends nobody elsewhere, and a token must not follow.
            allow_redirects=False,
        )
        if response.status < 300:
            return response
        try:
            raise await _error(self.endpoint.name, response)
        finally:
            response.release()

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            endpoint = self.endpoint
            connector: aiohttp.BaseConnector
            if endpoint.socket is not None:
                connector = aiohttp.UnixConnector(path=str(endpoint.socket))
            else:
                connector = aiohttp.TCPConnector() if endpoint.tls is None else aiohttp.TCPConnector(ssl=endpoint.tls)
            headers = {}
            if endpoint.bearer_token is not None:
                headers["Authorization"] = f"Bearer {endpoint.bearer_token}"
            if endpoint.host is not None:
                headers["Host"] = endpoint.host
            self._session = aiohttp.ClientSession(
                connector=connector,
                headers=headers,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT),
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
            )
        return self._session


class Retry:
    """When to ask again after something went wrong, and when to give up."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._pause = FIRST_PAUSE
        self._until = _clock() + transport.patience

    async def after(self, error: Exception, *, safe: bool) -> None:
        """Returns when it is time to ask again; raises when it is not to be asked again."""
        problem = _named(self._transport.endpoint, error)
        if not isinstance(problem, Later) and not isinstance(problem, AgentUnreachable):
            self._transport.answered()
            raise problem from None
        final = isinstance(problem, AnswerUnreadable | _Untrusted)
        heard = isinstance(problem, AnswerLost)
        self._transport.lost()
        # Not all at the same moment: hundreds of callers may have lost the same line.
        pause = self._pause * random.uniform(0.5, 1.0)  # noqa: S311
        if isinstance(problem, Later):
            pause = max(pause, problem.pause)
        if final or (heard and not safe) or _clock() + pause > self._until:
            raise (problem.error if isinstance(problem, Later) else problem) from error
        await asyncio.sleep(pause)
        self._pause = min(self._pause * 2, LONGEST_PAUSE)


class _Untrusted(AgentUnreachable):
    """TLS says one side is not who it should be; waiting does not change that."""


def _clock() -> float:
    return asyncio.get_running_loop().time()


async def _read_json(response: aiohttp.ClientResponse) -> Any:
    try:
        return json.loads(await _read(response))
    except ValueError as error:
        raise AnswerUnreadable(f"{response.url} answered something that is not JSON.") from error


async def _read(response: aiohttp.ClientResponse) -> bytes:
    found = bytearray()
    async for chunk in response.content.iter_any():
        found += chunk
        if len(found) > ANSWER_LIMIT:
            raise AnswerUnreadable(f"{response.url} answered more than {ANSWER_LIMIT} bytes.")
    return bytes(found)


async def _error(name: str, response: aiohttp.ClientResponse) -> Exception:
    body = await _read(response)
    try:
        error = error_of(response.status, json.loads(body))
    except ValueError:
        error = None
    if error is not None:
        if response.status not in LATER:
            return error
        after = response.headers.get("Retry-After", "")
        # An agent that starts may be there sooner than it says; a rate limit is not.
        return Later(error, float(after) if response.status == 429 and after.isdecimal() else 0.0)
    if response.status in IN_BETWEEN:
        return AnswerLost(f"{name} answered HTTP {response.status}, and it was not the agent that said so.")
    return AnswerUnreadable(
        f"{name} answered HTTP {response.status} without saying why as an agent does.",
        next_step="Look whether the agent listens there.",
    )


def _named(endpoint: Endpoint, error: Exception) -> Exception:
    """An exception of the network as one of ours; ours stay as they are."""
    if isinstance(error, AgentError | Later):
        return error
    name = endpoint.name
    cause = _tls_cause(error)
    if isinstance(error, aiohttp.ClientConnectorError | aiohttp.ServerTimeoutError):
        # No connection came about. (Nothing else raises ServerTimeoutError: only sock_connect is set.)
        if isinstance(getattr(error, "os_error", None), PermissionError):
            return Forbidden(f"This user may not open {name}.", next_step="Run it as root, or in the socket's group.")
        if cause is not None:
            return _Untrusted(
                f"{name} cannot be trusted: {cause}.", next_step="Compare its certificate with the CA given."
            )
        return AgentUnreachable(f"No agent answers on {name}: {_why(error)}.", next_step="See whether it runs.")
    if cause is not None:
        # In TLS 1.3 the server's refusal of our certificate comes after the handshake, if it is told at all.
        return _Untrusted(f"{name} broke the TLS connection: {cause}.", next_step="Look at the client certificate.")
    look = " and takes this client certificate" if endpoint.tls is not None else ""
    return AnswerLost(f"{name} did not answer: {_why(error)}.", next_step=f"See whether the agent runs{look}.")


def _tls_cause(error: BaseException | None) -> str | None:
    """What TLS complains of, when it does."""
    while error is not None:
        # (aiohttp's own class of that name is one, too, without the words.)
        if isinstance(error, ssl.SSLCertVerificationError) and hasattr(error, "verify_message"):
            return error.verify_message
        # Older releases of aiohttp keep the words of an alert only.
        alert = re.search(r"\[SSL: (\w*ALERT\w*)\]", str(error))
        if alert:
            return alert[1].replace("_", " ").lower()
        error = error.__cause__ or error.__context__
    return None


def _why(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "it took too long"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
