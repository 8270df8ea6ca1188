"""Clusters whose agents are the real API over a simulated manager: what a fleet driver sees of the world.

A server has a datastore and a list of operations; a migrate makes an etcd of one member, a join adds
one. How they go is decided per server beforehand (``Fate``), so that two runs over the same seed meet
the same world. Everything that happens is written down in order (``World.history``).
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import json
import random
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

from aiohttp import web

from k3s_ha_agent.api.access import Caller
from k3s_ha_agent.api.routes import Handler
from k3s_ha_agent.api.server import ApiServer
from k3s_ha_agent.errors import (
    AlreadyCommitted,
    Conflict,
    IdempotencyKeyReused,
    NotFound,
    OperationInProgress,
    PreflightFailed,
    Unavailable,
)
from k3s_ha_agent.model import (
    CheckResult,
    CheckStatus,
    ClusterMember,
    ClusterView,
    Datastore,
    Event,
    Kind,
    NodeState,
    Operation,
    Outcome,
    Phase,
    Quorum,
    StepRecord,
    StepStatus,
    now,
)
from k3s_ha_agent.settings import Settings

STEPS = ("save-pre-image", "start-k3s", "prove", "commit")
TOKEN = "K10c0ffee::server:a-secret-of-the-tests"


@dataclasses.dataclass
class Fate:
    """How operations on a server go. ``outcomes``: of its first, second, … operation; then they succeed."""

    outcomes: tuple[Outcome, ...] = ()
    refused: bool = False
    dead: bool = False
    sick: bool = False
    """A member that never becomes healthy."""
    alien: bool = False
    """Not the datastore it should have."""


@dataclasses.dataclass
class World:
    """All clusters, and what happened in them."""

    directory: Path
    seed: int
    noise: float = 0.0
    """How often a question or its answer gets lost."""
    step_time: float = 0.01
    """Seconds, at least; up to three times that."""
    clusters: dict[str, SimCluster] = dataclasses.field(default_factory=dict)
    history: list[tuple[str, str, str, str]] = dataclasses.field(default_factory=list)
    """(``began`` or ``ended``, cluster, server, operation), in order."""
    wrongs: list[str] = dataclasses.field(default_factory=list)
    lost: int = 0
    going_on: asyncio.Event = dataclasses.field(default_factory=asyncio.Event)
    """While it is not set, no operation ends (``hold``)."""
    watched: bool = False
    happened: asyncio.Condition = dataclasses.field(default_factory=asyncio.Condition)

    def add(self, name: str, fates: list[Fate]) -> SimCluster:
        self.clusters[name] = SimCluster(self, name, fates)
        return self.clusters[name]

    def hold(self) -> None:
        """Let no operation end, until ``until_watched`` was called and somebody waits for one."""
        self.going_on.clear()
        self.watched = False

    def until_watched(self) -> None:
        self.watched = True

    async def start(self) -> None:
        self.going_on.set()
        for cluster in self.clusters.values():
            for server in cluster.servers:
                if not server.fate.dead:
                    await server.start()

    async def stop(self) -> None:
        for cluster in self.clusters.values():
            for server in cluster.servers:
                await server.stop()

    async def tell(self, what: str, server: SimServer, operation: str) -> None:
        self.history.append((what, server.cluster.name, server.name, operation))
        async with self.happened:
            self.happened.notify_all()

    async def until_begun(self, number: int) -> None:
        """Wait until so many operations have begun."""
        async with self.happened:
            await self.happened.wait_for(lambda: sum(1 for h in self.history if h[0] == "began") >= number)

    def spans(self) -> dict[str, tuple[int, int]]:
        """For each cluster that was touched, when its first operation began and its last one ended, in history."""
        found: dict[str, tuple[int, int]] = {}
        for moment, (_, cluster, _, _) in enumerate(self.history):
            found[cluster] = (found.get(cluster, (moment, 0))[0], moment)
        return found

    def most_at_once(self) -> int:
        """The most clusters that were between their first and their last act at the same moment."""
        spans = self.spans().values()
        changes = sorted([(begin, 1) for begin, _ in spans] + [(end, -1) for _, end in spans])
        now = most = 0
        for _, change in changes:
            now += change
            most = max(most, now)
        return most

    def state(self) -> dict[str, list[Any]]:
        """What became of every server: datastore and operations."""
        return {
            f"{cluster.name}/{server.name}": [
                server.datastore.value,
                *((o.kind.value, None if o.outcome is None else o.outcome.value) for o in server.operations),
            ]
            for cluster in self.clusters.values()
            for server in cluster.servers
        }


class SimCluster:
    def __init__(self, world: World, name: str, fates: list[Fate]) -> None:
        self.world = world
        self.name = name
        self.joining = 0
        self.servers = [SimServer(self, "abcdefg"[n], fate, first=n == 0) for n, fate in enumerate(fates)]
        self.members: list[SimServer] = []

    @property
    def url(self) -> str:
        return f"https://{self.name}.example:6443"


class SimServer:
    """One server and its agent; keeps the contract of ``k3s_ha_agent.api.manager``."""

    def __init__(self, cluster: SimCluster, name: str, fate: Fate, *, first: bool) -> None:
        self.cluster = cluster
        self.name = name
        self.fate = fate
        self.datastore = Datastore.SQLITE if first != fate.alien else Datastore.NONE
        self.operations: list[Operation] = []
        self.keys: dict[str, tuple[str, str]] = {}
        self.changed = asyncio.Condition()
        self.path = cluster.world.directory / f"{cluster.name}-{name}.sock"
        self.random = random.Random(f"{cluster.world.seed}/{cluster.name}/{name}")
        self.doors: Settings | None = None
        """Where it listens besides the socket."""
        self._server: ApiServer | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        server = ApiServer(
            self,
            socket_path=self.path,
            socket_group="daemon",
            ready=lambda: True,
            audit_log=self.path.with_suffix(".audit"),
            settings=self.doors,
        )
        server.routes = tuple(
            dataclasses.replace(route, handler=self._through_noise(route.handler)) for route in server.routes
        )
        await server.start()
        self._server = server

    @property
    def agent(self) -> str:
        """As ``fleet.yaml`` names it."""
        if self.doors is None:
            return f"unix:{self.path}"
        return f"http://{self.doors.listen_tcp}" if self.doors.listen_tcp else f"https://{self.doors.listen_tls}"

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(grace=0)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _through_noise(self, handler: Handler) -> Handler:
        """The handler at the end of a bad line: questions and answers get lost, the agent is starting."""

        async def noisy(request: web.Request, caller: Caller) -> web.StreamResponse:
            world, fate = self.cluster.world, self.random.random()
            if fate < world.noise / 3:
                raise Unavailable("The agent is starting.")
            if fate < world.noise * 2 / 3:
                world.lost += 1
                assert request.transport is not None
                request.transport.abort()
                return web.Response()
            response = await handler(request, caller)
            if world.noise * 2 / 3 <= fate < world.noise and request.transport is not None:
                world.lost += 1
                request.transport.abort()
            return response

        return noisy

    # --- the manager ---------------------------------------------------------------------------------

    async def submit(
        self, kind: Kind, body: Mapping[str, Any], /, *, requested_by: str, idempotency_key: str | None
    ) -> tuple[Operation, bool]:
        told = {name: value for name, value in body.items() if name != "token"}
        digest = hashlib.sha256(json.dumps([kind, told], sort_keys=True).encode()).hexdigest()
        await asyncio.sleep(self.cluster.world.step_time)
        if idempotency_key is None:
            self.cluster.world.wrongs.append(f"{self.path.stem}: no key")
        elif idempotency_key in self.keys:
            earlier, its_digest = self.keys[idempotency_key]
            if its_digest != digest:
                raise IdempotencyKeyReused("The key was used.", operation=earlier)
            return self.get(earlier), True
        running = self.running()
        if running is not None:
            raise OperationInProgress(f"{running.id} is running.", operation=running.id)
        refusal = self._refusal(kind, body)
        if refusal is not None:
            raise PreflightFailed("1 of 2 checks refuses.", next_step="See to it.", checks=refusal)
        operation = Operation(
            id=f"{kind}-{len(self.operations) + 1}",
            kind=kind,
            parameters={k: v for k, v in told.items() if k != "token_file"},
            created_at=now(),
            steps=tuple(StepRecord(step) for step in STEPS),
            idempotency_key=idempotency_key,
            requested_by=requested_by,
        )
        self.operations.append(operation)
        self.keys[str(idempotency_key)] = (operation.id, digest)
        await self.cluster.world.tell("began", self, operation.id)
        task = asyncio.ensure_future(self._play(operation.id, len(self.operations) - 1))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return operation, False

    def _refusal(self, kind: Kind, body: Mapping[str, Any]) -> list[CheckResult] | None:
        checks = [CheckResult("version", CheckStatus.OK, "k3s v1.34.1+k3s1")]
        wanted = Datastore.SQLITE if kind is Kind.MIGRATE else Datastore.NONE
        if self.fate.refused:
            return [*checks, CheckResult("disk", CheckStatus.REFUSED, "97 % full", "5 GiB", "Free some.")]
        if self.datastore is not wanted:
            return [*checks, CheckResult("datastore", CheckStatus.REFUSED, self.datastore.value, wanted.value)]
        if kind is Kind.JOIN:
            if body.get("server") != self.cluster.url or self.cluster.servers[0].datastore is not Datastore.ETCD:
                return [*checks, CheckResult("target", CheckStatus.REFUSED, f"{body.get('server')} is not on etcd")]
            if body.get("token", TOKEN) != TOKEN or ("token" in body) == ("token_file" in body):
                return [*checks, CheckResult("token", CheckStatus.REFUSED, "not the cluster's")]
        return None

    async def _play(self, operation_id: str, number: int) -> None:
        joins = self.get(operation_id).kind is Kind.JOIN
        fates = self.fate.outcomes
        outcome = fates[number] if number < len(fates) else Outcome.SUCCEEDED
        self.cluster.joining += joins
        if self.cluster.joining > 1:
            self.cluster.world.wrongs.append(f"{self.cluster.name}: two joins at a time")
        for step in STEPS:
            await self._mark(operation_id, step, StepStatus.DOING)
            await asyncio.sleep(self.cluster.world.step_time * self.random.uniform(1, 3))
            await self.cluster.world.going_on.wait()
            if step == "prove" and outcome is not Outcome.SUCCEEDED:
                await self._mark(operation_id, step, StepStatus.UNDONE, reason="keys-equal: found 7, needed 8.")
                break
            await self._mark(operation_id, step, StepStatus.DONE)
        if outcome is Outcome.SUCCEEDED:
            self.datastore = Datastore.ETCD
            self.cluster.members.append(self)
        self.cluster.joining -= joins
        await self._change(operation_id, phase=Phase.FINISHED, outcome=outcome, finished_at=now())
        await self.cluster.world.tell("ended", self, operation_id)

    async def _mark(self, operation_id: str, name: str, status: StepStatus, **changes: Any) -> None:
        steps = self.get(operation_id).steps
        steps = tuple(dataclasses.replace(s, status=status) if s.name == name else s for s in steps)
        await self._change(operation_id, steps=steps, **changes)

    async def _change(self, operation_id: str, **changes: Any) -> None:
        number = next(n for n, o in enumerate(self.operations) if o.id == operation_id)
        self.operations[number] = dataclasses.replace(self.operations[number], **changes)
        async with self.changed:
            self.changed.notify_all()

    async def dry_run(self, kind: Kind, body: Mapping[str, Any], /) -> Mapping[str, Any]:
        checks = self._refusal(kind, body)
        steps = [{"name": step, "after_commitment": False} for step in STEPS]
        shown = checks or [CheckResult("version", CheckStatus.OK, "k3s v1.34.1+k3s1")]
        return {"would_be_refused": checks is not None, "checks": shown, "steps": steps, "estimates": {}}

    async def preflight(self, kind: Kind, /) -> list[CheckResult]:
        return self._refusal(kind, {}) or []

    def get(self, operation_id: str, /) -> Operation:
        for operation in self.operations:
            if operation.id == operation_id:
                return operation
        raise NotFound(f"There is no operation {operation_id!r}.")

    def list(self) -> list[Operation]:
        return list(reversed(self.operations))

    def running(self) -> Operation | None:
        return next((o for o in self.operations if o.phase is not Phase.FINISHED), None)

    async def wait(self, operation_id: str, timeout: float, /) -> Operation | None:
        if self.cluster.world.watched:
            self.cluster.world.going_on.set()
        try:
            async with asyncio.timeout(timeout), self.changed:
                await self.changed.wait_for(lambda: self.get(operation_id).phase is Phase.FINISHED)
        except TimeoutError:
            return None
        return self.get(operation_id)

    async def abort(self, operation_id: str, /, *, requested_by: str) -> Operation:
        if self.get(operation_id).phase is Phase.FINISHED:
            raise Conflict(f"{operation_id} has finished.")
        raise AlreadyCommitted(f"{operation_id} is committed.")

    async def events(self, operation_id: str, after: int = 0, /) -> AsyncIterator[Event]:
        if await self.wait(operation_id, 600) is not None:
            yield Event(1, now(), "finished", {})

    async def status(self) -> NodeState:
        return NodeState(
            unit="k3s.service",
            unit_active_state="active",
            k3s_version="v1.34.1+k3s1",
            node_name=self.name,
            node_ready=True,
            roles=(),
            api_ready=True,
            datastore=self.datastore,
            datastore_detail=f"it is on {self.datastore.value}.",
        )

    async def members(self) -> ClusterView:
        if self.datastore is not Datastore.ETCD:
            return ClusterView((), None, None, f"This server runs on {self.datastore.value}.")
        members = self.cluster.members
        shown = [
            ClusterMember(
                id=hashlib.sha256(f"{self.cluster.name}/{member.name}".encode()).hexdigest()[:16],
                name=f"{member.name}-1a2b3c4d",
                node=member.name,
                address=f"{member.name}.{self.cluster.name}.example",
                voter=True,
                learner=False,
                leader=member is members[0],
                answers=True,
                healthy=not member.fate.sick,
            )
            for member in members
        ]
        quorum = Quorum(len(members), len(members) // 2 + 1, (len(members) - 1) // 2, len(members))
        return ClusterView(tuple(shown), quorum, (), f"{len(members)} servers.")

    async def backups(self) -> list[Mapping[str, Any]]:
        return []
