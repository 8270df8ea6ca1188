"""Asking etcd, the API server and the supervisor: one request, one time limit, one kind of error.

Nothing is retried here and no proxy of the environment is used. Two of three servers stopped make
the API hang rather than fail (k3s-facts, "Seen" 11), so every request has an end.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import ssl
from collections.abc import AsyncIterator, Mapping
from typing import Any, Self

import aiohttp

from k3s_ha_agent.durations import format_duration
from k3s_ha_agent.errors import OutsideError

MAX_ANSWER = 16 * 1024 * 1024
"""Bytes of an answer that are read at most, unless the caller says otherwise."""
_IN_THREAD = 64 * 1024
"""JSON longer than this is parsed in a thread: the event loop must not stand still for it."""


class AnswerTooBig(Exception):
    """The answer is longer than the caller allows."""


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: bytes
    date: str = ""
    """The header ``Date``: what time it is over there."""

    def text(self) -> str:
        return self.body.decode("utf-8", "replace")


class HttpClient:
    """A client of one base URL. ``error`` is the class its problems are raised as, ``who`` what
    people call the other side."""

    def __init__(
        self,
        url: str,
        ssl_context: ssl.SSLContext | None,
        *,
        timeout: float,
        error: type[OutsideError],
        who: str,
    ) -> None:
        self.url = url.rstrip("/")
        self.timeout = timeout
        self._ssl = ssl_context
        self._error = error
        self._who = who
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections; the client can still be used and opens new ones."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def problem(self, detail: str, **extensions: Any) -> OutsideError:
        return self._error(f"{self._who} at {self.url} {detail}", **extensions)

    async def request(
        self,
        method: str,
        path: str,
        *,
        data: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, str] | None = None,
        timeout: float | None = None,
        max_answer: int | None = None,
    ) -> Answer:
        """One request and its whole answer, whatever its status. ``timeout`` in seconds covers all of it.

        Raises the client's error when there is no answer in time; when it is longer than
        ``max_answer`` bytes, AnswerTooBig to the caller who set that, the client's error to others.
        """
        limit = self.timeout if timeout is None else timeout
        whole = aiohttp.ClientTimeout(total=limit)
        body = bytearray()
        async with self._asked(method, path, limit, whole, data=data, headers=headers, params=params) as response:
            async for chunk in response.content.iter_any():
                body += chunk
                if len(body) > (max_answer or MAX_ANSWER):
                    response.close()
                    if max_answer is None:
                        raise self.problem(f"sends more than {MAX_ANSWER} bytes for {method} {path}.")
                    raise AnswerTooBig
            return Answer(response.status, bytes(body), response.headers.get("Date", ""))

    @contextlib.asynccontextmanager
    async def stream(
        self, method: str, path: str, *, data: bytes | None = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """A request whose answer is read as it comes; each wait for more of it has the time limit."""
        pieces = aiohttp.ClientTimeout(total=None, sock_connect=self.timeout, sock_read=self.timeout)
        async with self._asked(method, path, self.timeout, pieces, data=data) as response:
            yield response

    @contextlib.asynccontextmanager
    async def _asked(
        self,
        method: str,
        path: str,
        limit: float,
        timeout: aiohttp.ClientTimeout,
        *,
        data: bytes | None,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, str] | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        options: dict[str, Any] = {} if self._ssl is None else {"ssl": self._ssl}
        try:
            async with self._opened().request(
                method,
                self.url + path,
                data=data,
                headers=headers,
                params=params,
                timeout=timeout,
                allow_redirects=False,
                **options,
            ) as response:
                yield response
        except (TimeoutError, asyncio.TimeoutError) as error:  # noqa: UP041 - aiohttp raises its own subclasses
            raise self.problem(f"did not answer {method} {path} within {format_duration(limit)}.") from error
        except (aiohttp.ClientError, OSError) as error:
            reason = str(error) or type(error).__name__
            raise self.problem(f"cannot be asked {method} {path}: {reason}.") from error

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar())
        return self._session


async def parse_json(body: bytes) -> Any:
    """JSON of an answer; ValueError when it is none. A long one is parsed in a thread."""
    if len(body) > _IN_THREAD:
        return await asyncio.to_thread(json.loads, body)
    return json.loads(body)


def client_ssl(ca: str, cert: str | None = None, key: str | None = None) -> ssl.SSLContext:
    """TLS that trusts one CA file only and shows a client certificate. Blocks; OSError (ssl.SSLError
    among them) when a file is missing or not valid."""
    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=ca)
    if cert is not None:
        context.load_cert_chain(cert, key)
    return context
