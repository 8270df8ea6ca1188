"""The client itself: one method per call of the API."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

from k3s_ha_agent.client import answers
from k3s_ha_agent.client.answers import AgentStatus, DryRun, Preflight, ServerEvent, Submitted
from k3s_ha_agent.client.endpoint import Endpoint
from k3s_ha_agent.client.requests import JoinRequest, MigrateRequest, Request, RollbackRequest, body
from k3s_ha_agent.client.transport import FIRST_PAUSE, NETWORK, Retry, Transport
from k3s_ha_agent.durations import format_duration
from k3s_ha_agent.errors import ConfigurationError, NotFinishedYet
from k3s_ha_agent.model import ClusterView, Kind, Operation, Phase

CALL_TIMEOUT = 60.0
"""Seconds an answer may take."""
CHECKS_TIMEOUT = 900.0
"""Seconds an answer may take that needs the checks made: they copy the datastore and measure the disk."""
LONG_POLL = 30.0
"""Seconds of one long poll. Short, so that a line that died without a word is noticed."""
PATIENCE = 120.0


class AgentClient:
    """Asks one agent. Use it as an asynchronous context manager, in one event loop.

    ``patience``: seconds an agent that went away is waited for before AgentUnreachable is raised;
    may be set at any time. ``long_poll``: seconds of one question of ``wait``. Every call raises the
    class of ``errors.py`` that the agent's problem document names.
    """

    def __init__(self, endpoint: Endpoint, *, patience: float = PATIENCE, long_poll: float = LONG_POLL) -> None:
        self._transport = Transport(endpoint, patience)
        self._long_poll = long_poll

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self._transport.close()

    @property
    def endpoint(self) -> Endpoint:
        return self._transport.endpoint

    @property
    def patience(self) -> float:
        return self._transport.patience

    @patience.setter
    def patience(self, seconds: float) -> None:
        self._transport.patience = seconds

    @property
    def away(self) -> float | None:
        """Seconds since the agent stopped answering a question of this client; None while it answers."""
        return self._transport.away

    # --- doing ------------------------------------------------------------------------------------

    async def migrate(
        self,
        *,
        method: str | None = None,
        timeout: float | None = None,
        stability: float | None = None,
        accept_slow_disk: bool | None = None,
        idempotency_key: str | None = None,
    ) -> Submitted:
        """Begin to move the server to embedded etcd. Durations in seconds. Raises as ``submit``."""
        request = MigrateRequest(method=method, timeout=timeout, stability=stability, accept_slow_disk=accept_slow_disk)
        return await self.submit(request, idempotency_key=idempotency_key)

    async def join(
        self,
        server: str,
        *,
        token_file: str | None = None,
        token: str | None = None,
        on_conflict: str | None = None,
        timeout: float | None = None,
        stability: float | None = None,
        idempotency_key: str | None = None,
    ) -> Submitted:
        """Begin to make the server a member of the cluster of ``server``. Raises as ``submit``."""
        request = JoinRequest(
            server=server,
            token_file=token_file,
            token=token,
            on_conflict=on_conflict,
            timeout=timeout,
            stability=stability,
        )
        return await self.submit(request, idempotency_key=idempotency_key)

    async def rollback(
        self,
        *,
        writes: str | None = None,
        confirm_lost_writes: bool | None = None,
        timeout: float | None = None,
        stability: float | None = None,
        idempotency_key: str | None = None,
    ) -> Submitted:
        """Begin to undo what the server committed last. Raises as ``submit``."""
        request = RollbackRequest(
            writes=writes, confirm_lost_writes=confirm_lost_writes, timeout=timeout, stability=stability
        )
        return await self.submit(request, idempotency_key=idempotency_key)

    async def submit(self, request: Request, *, idempotency_key: str | None = None) -> Submitted:
        """Begin an operation; it goes on whatever becomes of this program.

        Without a key one is made up, so that a lost answer never begins a second operation. Raises
        PreflightFailed (``extensions["checks"]``), OperationInProgress and IdempotencyKeyReused
        (``extensions["operation"]``), Conflict, InvalidBody, LostWritesNotConfirmed, Forbidden,
        NotImplementedYet, AgentUnreachable; ConfigurationError when a token would be sent in the clear.
        """
        key = idempotency_key or str(uuid.uuid4())
        answer, headers = await self._post(request, body(request), {"Idempotency-Key": key})
        return Submitted(
            answers.read("an operation", answers.operation, answer), headers.get("Idempotent-Replayed") == "true"
        )

    async def dry_run(self, request: Request) -> DryRun:
        """What ``submit`` would do, with the checks made now; nothing is changed."""
        answer, _ = await self._post(request, {**body(request), "dry_run": True}, {})
        return answers.read("a dry run", answers.dry_run, answer)

    async def _post(
        self, request: Request, sent: Mapping[str, Any], headers: Mapping[str, str]
    ) -> tuple[Any, Mapping[str, str]]:
        if "token" in sent and not self.endpoint.private:
            raise ConfigurationError(
                f"The server token is not sent to {self.endpoint.name}: others could read it on the way.",
                next_step="Use token_file, a path on the joining server, or https://.",
            )
        return await self._transport.ask(
            "POST", f"/v1/{request.kind}", body=sent, headers=headers, timeout=CHECKS_TIMEOUT, safe=True
        )

    async def abort(self, operation_id: str) -> Operation:
        """Ask for an operation to be undone. Raises AlreadyCommitted, Conflict when it has finished, NotFound.

        Not asked again when it may have been heard: AnswerLost; ``operation`` says what became of it.
        """
        answer, _ = await self._transport.ask(
            "POST", f"{_target(operation_id)}/abort", body={}, timeout=CALL_TIMEOUT, safe=False
        )
        return answers.read("an operation", answers.operation, answer)

    # --- reading ----------------------------------------------------------------------------------

    async def operation(self, operation_id: str) -> Operation:
        """NotFound when there is none."""
        return answers.read("an operation", answers.operation, await self._get(_target(operation_id)))

    async def operations(self, *, limit: int = 50) -> tuple[Operation, ...]:
        """Newest first, at most ``limit`` (1 to 1000)."""
        return answers.read("operations", answers.operations, await self._get(f"/v1/operations?limit={limit}"))

    async def wait(self, operation_id: str, *, timeout: float | None = None) -> Operation:
        """The finished operation, also across restarts of the agent.

        NotFinishedYet after ``timeout`` seconds; None waits as long as it takes, which the
        operation's own deadline bounds.
        """
        clock = asyncio.get_running_loop().time
        until = None if timeout is None else clock() + timeout
        while True:
            left = self._long_poll if until is None else max(0.0, min(self._long_poll, until - clock()))
            target = f"{_target(operation_id)}/wait?timeout={format_duration(left)}"
            try:
                # A server that lost its power does not even end the connection.
                answer = await self._get(target, CALL_TIMEOUT + left)
            except NotFinishedYet:
                if until is not None and clock() >= until:
                    raise
            else:
                return answers.read("an operation", answers.operation, answer)

    async def follow(self, operation_id: str, *, every: float = 2.0) -> AsyncIterator[Operation]:
        """The operation now, every ``every`` seconds, and at last when it has finished."""
        while True:
            found = await self.operation(operation_id)
            yield found
            if found.phase is Phase.FINISHED:
                return
            try:
                yield await self.wait(operation_id, timeout=every)
            except NotFinishedYet:
                continue
            return

    async def events(self, operation_id: str, *, after: int = 0) -> AsyncIterator[ServerEvent]:
        """Events with an id above ``after`` up to ``finished``, each kept one once, also across restarts.

        Ends without ``finished`` only when the rescue ended the operation, which tells nobody.
        """
        target = f"{_target(operation_id)}/events"
        retry = Retry(self._transport)
        over = False
        while True:
            try:
                async with contextlib.aclosing(self._stream(target, after)) as events:
                    async for event in events:
                        retry = Retry(self._transport)
                        after = event.id or after
                        yield event
                        if event.type == "finished":
                            return
            except NETWORK as error:
                await retry.after(error, safe=True)
                continue
            if over:
                return
            # The stream ended early: the agent stops. Or it is over; what came meanwhile is asked for once more.
            over = (await self.operation(operation_id)).phase is Phase.FINISHED
            await asyncio.sleep(0 if over else FIRST_PAUSE)

    async def _stream(self, target: str, after: int) -> AsyncGenerator[ServerEvent, None]:
        parser = answers.EventParser()
        headers = {"Accept": "text/event-stream", **({"Last-Event-ID": str(after)} if after else {})}
        async with contextlib.aclosing(self._transport.stream(target, headers)) as stream:
            async for data in stream:
                for event in parser.feed(data):
                    yield event

    async def status(self) -> AgentStatus:
        return answers.read("status", answers.status, await self._get("/v1/status"))

    async def preflight(self, kind: Kind = Kind.MIGRATE) -> Preflight:
        """Every check made now. It is no error when one refuses: see ``ok``."""
        answer = await self._get(f"/v1/preflight?for={kind}", CHECKS_TIMEOUT)
        return answers.read("preflight", answers.preflight, answer)

    async def members(self) -> ClusterView:
        """The members of etcd, as this server sees them; none where there is no etcd."""
        return answers.read("members", answers.members, await self._get("/v1/members"))

    async def backups(self) -> tuple[Mapping[str, Any], ...]:
        return answers.read("backups", answers.backups, await self._get("/v1/backups"))

    async def _get(self, target: str, timeout: float = CALL_TIMEOUT) -> Any:
        answer, _ = await self._transport.ask("GET", target, timeout=timeout, safe=True)
        return answer


def _target(operation_id: str) -> str:
    return f"/v1/operations/{quote(operation_id, safe='')}"
