"""``plan`` and ``status``: every cluster asked, nothing changed."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

from k3s_ha_agent.errors import AgentError, AgentUnreachable, Unavailable
from k3s_ha_agent.fleet.assess import IN_THE_WAY, Finding, Need, assess, complaints
from k3s_ha_agent.fleet.configuration import Cluster, Fleet
from k3s_ha_agent.fleet.drive import request_for
from k3s_ha_agent.fleet.look import Clients, Endpoints, clients_of, look
from k3s_ha_agent.fleet.outcome import OF_NEED, Result, because

T = TypeVar("T")
AT_ONCE = 32
"""Clusters asked at the same time."""
LATER = "checked when its turn comes"


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """What would happen on a server, or what it is; a row of a table."""

    cluster: str
    server: str
    what: str
    why: str
    result: Result | None = None
    """Not None when it stands in the way, or (``status``) when it is not as it should be."""

    def as_json(self) -> Mapping[str, Any]:
        return dataclasses.asdict(self)


class Survey:
    """Asks the clusters of a fleet. ``tokens``: of the clusters whose token is in a file here."""

    def __init__(self, fleet: Fleet, endpoints: Endpoints, tokens: Mapping[str, str], *, retry: bool) -> None:
        self._fleet = fleet
        self._endpoints = endpoints
        self._tokens = tokens
        self._retry = retry

    async def plan(self, clusters: Sequence[Cluster]) -> list[Answer]:
        """What ``apply`` would do on each server."""
        return await self._each(clusters, self._plan)

    async def status(self, clusters: Sequence[Cluster]) -> list[Answer]:
        """What each server is, and whether its cluster is proven."""
        return await self._each(clusters, self._status)

    async def in_order(self, clusters: Sequence[Cluster]) -> list[Cluster]:
        """The clusters, first those with a running operation, then those that are half done."""
        ranks = dict(await self._each(clusters, self._rank))
        return sorted(clusters, key=lambda cluster: ranks[cluster.name])

    async def _rank(self, cluster: Cluster, clients: Clients) -> list[tuple[str, int]]:
        needs = {finding.need for finding in assess(cluster, await look(cluster, clients))}
        half = Need.NOTHING in needs and len(needs) > 1
        return [(cluster.name, 0 if Need.FOLLOW in needs else 1 if half else 2)]

    async def _each(
        self, clusters: Sequence[Cluster], ask: Callable[[Cluster, Clients], Awaitable[list[T]]]
    ) -> list[T]:
        free = asyncio.Semaphore(AT_ONCE)

        async def one(cluster: Cluster) -> list[T]:
            async with free, clients_of(cluster, self._endpoints, self._fleet.limits.reach) as clients:
                return await ask(cluster, clients)

        answers = await asyncio.gather(*(one(cluster) for cluster in clusters))
        return [answer for found in answers for answer in found]

    async def _plan(self, cluster: Cluster, clients: Clients) -> list[Answer]:
        retry = {server.name for server in cluster.servers} if self._retry else set()
        findings = assess(cluster, await look(cluster, clients), retry=retry)
        running = any(f.need is Need.FOLLOW for f in findings)
        blocked = running or any(f.need in IN_THE_WAY for f in findings)
        answers = []
        for finding in findings:
            todo = finding.need in (Need.MIGRATE, Need.JOIN)
            if not todo:
                answers.append(_answer(cluster, finding))
            elif blocked:
                answers.append(_answer(cluster, finding, LATER))
            else:
                answers.append(await self._checked(cluster, finding, clients))
                blocked = True
        return answers

    async def _checked(self, cluster: Cluster, finding: Finding, clients: Clients) -> Answer:
        """The first thing that would be done, with the checks made now."""
        request = request_for(cluster, finding.need, self._tokens.get(cluster.name))
        name, server = cluster.name, finding.server.name
        try:
            plan = await clients[server].dry_run(request)
        except AgentError as error:
            away = isinstance(error, AgentUnreachable | Unavailable)
            result = Result.UNREACHABLE if away else Result.BLOCKED
            return Answer(name, server, result.value, f"{finding.need}: {error.detail}", result)
        if plan.would_be_refused:
            return Answer(name, server, "blocked", f"{finding.need}: {because(plan.checks)}", Result.BLOCKED)
        return _answer(cluster, finding, f"{finding.why}; {len(plan.checks)} checks passed")

    async def _status(self, cluster: Cluster, clients: Clients) -> list[Answer]:
        seen = await look(cluster, clients)
        findings = assess(cluster, seen)
        answers = [_answer(cluster, finding) for finding in findings]
        if all(finding.need is Need.NOTHING for finding in findings):
            found = complaints(cluster, seen)
            what, result = ("not proven", Result.FAILED) if found else ("done", None)
            why = "; ".join(found) or "healthy voter"
            answers = [dataclasses.replace(answer, what=what, why=why, result=result) for answer in answers]
        return answers


def _answer(cluster: Cluster, finding: Finding, why: str | None = None) -> Answer:
    what = "rolled back" if finding.need is Need.HELD else finding.need.value
    return Answer(cluster.name, finding.server.name, what, why or finding.why, OF_NEED.get(finding.need))
