"""One cluster to its goal: the first server migrated, the others joined one by one, everything proven.

The driver decides anew after every operation, from what the agents say then. So it makes no
difference whether an operation was begun by this run, by one that was killed, or by somebody else.
"""

from __future__ import annotations

import asyncio

from k3s_ha_agent.client import AgentClient, JoinRequest, MigrateRequest
from k3s_ha_agent.client.answers import checks as read_checks
from k3s_ha_agent.client.answers import read
from k3s_ha_agent.client.requests import Request
from k3s_ha_agent.durations import format_duration
from k3s_ha_agent.errors import (
    AgentError,
    AgentUnreachable,
    IdempotencyKeyReused,
    NotImplementedYet,
    OperationInProgress,
    PreflightFailed,
    Unavailable,
)
from k3s_ha_agent.fleet.assess import Finding, Need, assess, complaints, in_the_way, of_one_cluster
from k3s_ha_agent.fleet.configuration import Cluster, Fleet, Server
from k3s_ha_agent.fleet.look import Clients, Endpoints, clients_of, look
from k3s_ha_agent.fleet.outcome import OF_NEED, Ending, Result, because, refused
from k3s_ha_agent.fleet.report import Report
from k3s_ha_agent.model import Phase

FOLLOW_EVERY = 2.0
"""Seconds between two looks at an operation's progress."""
VERIFY_EVERY = 1.0


class Ended(Exception):
    """The cluster is at its end, one way or another."""

    def __init__(self, ending: Ending) -> None:
        super().__init__(ending.why)
        self.ending = ending


class Driver:
    """Drives one cluster. ``token``: the server token sent in join requests, None when servers have it in a file.

    ``retry``: begin again what went back, once.
    """

    def __init__(
        self, fleet: Fleet, cluster: Cluster, endpoints: Endpoints, token: str | None, report: Report, *, retry: bool
    ) -> None:
        self._fleet = fleet
        self._cluster = cluster
        self._endpoints = endpoints
        self._token = token
        self._report = report
        self._retry = {server.name for server in cluster.servers} if retry else set()
        self._operated: set[str] = set()
        """Servers on which an operation of this run ended."""

    async def run(self) -> Ending:
        """How it ended; raises nothing but bugs."""
        async with clients_of(self._cluster, self._endpoints, self._fleet.limits.reach) as clients:
            try:
                # Each round ends an operation or the whole; somebody else's may come in between.
                for _ in range(4 * len(self._cluster.servers) + 4):
                    await self._round(clients)
            except Ended as ended:
                return ended.ending
        return self._ending(Result.FAILED, "other operations kept coming in between", next_step="Run it again.")

    async def _round(self, clients: Clients) -> None:
        seen = await look(self._cluster, clients)
        findings = assess(self._cluster, seen, retry=self._retry)
        self._report.rows[self._cluster.name].ready = sum(1 for f in findings if f.need is Need.NOTHING)
        running = next((f for f in findings if f.need is Need.FOLLOW), None)
        if running is not None and running.operation is not None:
            self._event("operation-followed", f"{running.server.name}: {running.why}; following it", running)
            await self._follow(running.server, clients[running.server.name], running.operation)
            return
        blocking = in_the_way(findings)
        if blocking is not None:
            raise self._ended(OF_NEED[blocking.need], f"{blocking.server.name}: {blocking.why}", blocking.server)
        todo = next((f for f in findings if f.need in (Need.MIGRATE, Need.JOIN)), None)
        if todo is None:
            await self._verify(clients)
        elif todo.server.name in self._operated:
            raise self._ended(
                Result.FAILED,
                f"{todo.server.name}: its {todo.need} ended and it is as before: {todo.why}",
                todo.server,
                "Look at the operation: k3s-ha-agentctl operations",
            )
        else:
            migrated = {finding.server.name for finding in findings if finding.need is Need.NOTHING}
            if not of_one_cluster([one for one in seen if one.server.name in migrated]):
                # Nobody joins before those that are on etcd were seen to be one cluster.
                raise self._ended(Result.BLOCKED, "its servers on etcd do not see the same members: not one cluster")
            await self._begin(todo, clients[todo.server.name])

    async def _begin(self, todo: Finding, client: AgentClient) -> None:
        """Ask for the operation, under the key that makes asking again the same, and follow it."""
        server = todo.server
        kind = "migrate" if todo.need is Need.MIGRATE else "join"
        key = f"fleet/{self._fleet.name}/{self._cluster.name}/{server.name}/{kind}/{todo.attempt}"
        request = request_for(self._cluster, todo.need, self._token)
        row = self._report.rows[self._cluster.name]
        row.server, row.doing = server.name, f"{kind} preflight"
        client.patience = self._fleet.limits.away
        try:
            begun = await client.submit(request, idempotency_key=key)
        except (OperationInProgress, IdempotencyKeyReused) as error:
            # The request of a killed run may only now have become an operation.
            operation = error.extensions.get("operation")
            if not isinstance(operation, str):
                raise self._ended(Result.FAILED, f"{server.name}: {error}", server) from error
        except PreflightFailed as error:
            checks = read("checks", read_checks, error.extensions.get("checks", ()))
            why = f"{server.name}: {kind} refused: {because(checks) or error.detail}"
            raise Ended(
                Ending(self._cluster.name, Result.BLOCKED, why, error.next_step, server.name, refused(checks))
            ) from error
        except AgentError as error:
            raise self._ended(
                _result_of(error), f"{server.name}: {kind}: {error.detail}", server, error.next_step
            ) from error
        else:
            operation = begun.operation.id
            self._event(
                "operation-begun",
                f"{server.name}: {kind} {operation} {'was begun before' if begun.replayed else 'begun'}",
                todo,
                operation=operation,
                kind=kind,
                idempotency_key=key,
                replayed=begun.replayed,
            )
        await self._follow(server, client, operation)

    async def _follow(self, server: Server, client: AgentClient, operation_id: str) -> None:
        """Until the operation has ended; what it left is then asked anew."""
        limits = self._fleet.limits
        self._report.rows[self._cluster.name].away = lambda: client.away
        client.patience = limits.away
        operation = None
        try:
            async with asyncio.timeout(limits.operation):
                async for operation in client.follow(operation_id, every=FOLLOW_EVERY):
                    self._report.progress(self._cluster.name, server.name, operation)
        except TimeoutError as error:
            took = format_duration(limits.operation)
            raise self._ended(
                Result.FAILED, f"{server.name}: {operation_id} is still running after {took}", server
            ) from error
        except AgentError as error:
            raise self._ended(
                _result_of(error),
                f"{server.name}: {operation_id}: {error.detail}",
                server,
                "The operation goes on without us, or the rescue ends it. Run this again later.",
            ) from error
        finally:
            client.patience = limits.reach
        if operation is not None and operation.phase is Phase.FINISHED:
            self._operated.add(server.name)
            self._retry.discard(server.name)
            outcome = "" if operation.outcome is None else operation.outcome.value
            reason = f": {operation.reason}" if operation.reason else ""
            self._report.event(
                "operation-ended",
                f"{server.name}: {operation.kind} {operation.id} {outcome}{reason}",
                cluster=self._cluster.name,
                server=server.name,
                operation=operation.id,
                kind=operation.kind.value,
                outcome=outcome,
                reason=operation.reason,
                failed_evidence=list(operation.failed_evidence),
            )

    async def _verify(self, clients: Clients) -> None:
        """Every server a healthy voter and all of them seeing the same, within the time for it."""
        row = self._report.rows[self._cluster.name]
        row.server, row.doing = "", "verifying members"
        clock = asyncio.get_running_loop().time
        until = clock() + self._fleet.limits.verify
        while True:
            found = complaints(self._cluster, await look(self._cluster, clients))
            if not found:
                voters = len(self._cluster.servers)
                raise self._ended(Result.DONE, "1 voter, healthy" if voters == 1 else f"{voters} voters, all healthy")
            if clock() >= until:
                raise self._ended(Result.FAILED, f"not proven: {'; '.join(found)}", None, "k3s-ha-agentctl members")
            await asyncio.sleep(VERIFY_EVERY)

    def _event(self, name: str, sentence: str, finding: Finding, **facts: object) -> None:
        self._report.event(name, sentence, cluster=self._cluster.name, server=finding.server.name, **facts)

    def _ended(self, result: Result, why: str, server: Server | None = None, next_step: str = "") -> Ended:
        return Ended(self._ending(result, why, server, next_step))

    def _ending(self, result: Result, why: str, server: Server | None = None, next_step: str = "") -> Ending:
        return Ending(self._cluster.name, result, why, next_step, None if server is None else server.name)


def request_for(cluster: Cluster, need: Need, token: str | None) -> Request:
    """What a server is asked to do: the first to migrate, another to join the first."""
    options = cluster.options
    if need is Need.MIGRATE:
        return MigrateRequest(
            timeout=options.migrate_timeout,
            stability=options.migrate_stability,
            accept_slow_disk=options.accept_slow_disk,
        )
    return JoinRequest(
        server=cluster.first.k3s or "",
        token_file=None if token is not None else options.token_file,
        token=token,
        on_conflict="wait",
        timeout=options.join_timeout,
        stability=options.join_stability,
    )


def _result_of(error: AgentError) -> Result:
    if isinstance(error, AgentUnreachable | Unavailable):
        return Result.UNREACHABLE
    return Result.BLOCKED if isinstance(error, NotImplementedYet) else Result.FAILED
