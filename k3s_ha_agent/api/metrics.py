"""``/metrics`` in the Prometheus text format, version 0.0.4.

Everything is worked out from the records when it is asked for, so that the figures survive a
restart of the agent and cannot drift from what ``/v1/operations`` says.
"""

from __future__ import annotations

import asyncio
import math
import platform
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

import structlog
from aiohttp import web

from k3s_ha_agent import __version__
from k3s_ha_agent.api.access import Caller
from k3s_ha_agent.api.manager import OperationManager
from k3s_ha_agent.api.service import Service
from k3s_ha_agent.model import Kind, NodeState, Operation, Outcome

PREFIX = "k3s_ha_agent_"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
STATUS_TIMEOUT = 5.0
"""Seconds the state of the node may take; a scrape that waits longer is lost whole."""
BUCKETS = (0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0)
"""Upper bounds of step durations in seconds."""

log = structlog.get_logger("k3s_ha_agent.api")


class Text:
    """Collects families of samples."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def family(self, name: str, kind: str, help_text: str) -> None:
        self._lines += [f"# HELP {PREFIX}{name} {help_text}", f"# TYPE {PREFIX}{name} {kind}"]

    def sample(self, name: str, value: float, **labels: str) -> None:
        inner = ",".join(f'{label}="{escape(text)}"' for label, text in labels.items())
        self._lines.append(f"{PREFIX}{name}{'{' + inner + '}' if inner else ''} {number(value)}")

    def __str__(self) -> str:
        return "\n".join(self._lines) + "\n"


def escape(text: str) -> str:
    """A label value, escaped as the text format asks."""
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def number(value: float) -> str:
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if value == int(value) else repr(value)


class MetricsCalls:
    def __init__(self, manager: OperationManager, service: Service) -> None:
        self._manager = manager
        self._service = service

    async def metrics(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        text = Text()
        text.family("build_info", "gauge", "Version of the agent and of its Python; always 1.")
        text.sample("build_info", 1, version=__version__, python=platform.python_version())
        ready = self._service.ready()
        text.family("ready", "gauge", "1 once the agent has read its journal.")
        text.sample("ready", int(ready))
        if ready:
            operations = list(self._manager.list())
            add_operations(text, operations)
            add_running(text, self._manager.running())
            add_step_durations(text, operations)
            add_pre_image(text, await self._manager.backups(), time.time())
            add_datastore(text, await self._node_state())
        return web.Response(body=str(text).encode(), headers={"Content-Type": CONTENT_TYPE})

    async def _node_state(self) -> NodeState | None:
        try:
            async with asyncio.timeout(STATUS_TIMEOUT):
                return await self._manager.status()
        except Exception as error:
            log.warning("The state of this server could not be found out for /metrics.", exc_info=error)
            return None


def add_operations(text: Text, operations: Iterable[Operation]) -> None:
    """Every combination is there from the start, so that a rate over the first failure is seen."""
    finished = Counter((o.kind, o.outcome) for o in operations if o.outcome is not None)
    text.family("operations_total", "counter", "Finished operations.")
    for kind in Kind:
        for outcome in Outcome:
            text.sample("operations_total", finished[kind, outcome], kind=kind.value, outcome=outcome.value)


def add_running(text: Text, running: Operation | None) -> None:
    text.family("operation_in_progress", "gauge", "1 while an operation of this kind runs.")
    for kind in Kind:
        text.sample("operation_in_progress", int(running is not None and running.kind is kind), kind=kind.value)
    text.family("deadline_timestamp_seconds", "gauge", "When the running operation is undone; absent without one.")
    if running is not None and running.deadline is not None:
        deadline = datetime.fromisoformat(running.deadline).timestamp()
        text.sample("deadline_timestamp_seconds", deadline, kind=running.kind.value)


def add_step_durations(text: Text, operations: Iterable[Operation]) -> None:
    durations: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    for operation in operations:
        for step, seconds in _durations(operation):
            durations[operation.kind.value, step].append(seconds)
    text.family("step_duration_seconds", "histogram", "How long finished steps took.")
    for (kind, step), took in sorted(durations.items()):
        for bound in (*BUCKETS, math.inf):
            count = sum(seconds <= bound for seconds in took)
            text.sample("step_duration_seconds_bucket", count, kind=kind, step=step, le=number(bound))
        text.sample("step_duration_seconds_sum", round(sum(took), 3), kind=kind, step=step)
        text.sample("step_duration_seconds_count", len(took), kind=kind, step=step)


def _durations(operation: Operation) -> Iterator[tuple[str, float]]:
    for step in operation.steps:
        if step.started_at is not None and step.finished_at is not None:
            took = datetime.fromisoformat(step.finished_at) - datetime.fromisoformat(step.started_at)
            # The wall clock may have been set back meanwhile.
            yield step.name, max(0.0, took.total_seconds())


def add_pre_image(text: Text, backups: Iterable[Mapping[str, Any]], now: float) -> None:
    text.family("pre_image_age_seconds", "gauge", "Age of the newest kept pre-image; absent without one.")
    times = [backup["created_at"] for backup in backups if backup["created_at"] is not None]
    created = [datetime.fromisoformat(time).timestamp() for time in times]
    if created:
        text.sample("pre_image_age_seconds", round(max(0.0, now - max(created)), 3))


def add_datastore(text: Text, node: NodeState | None) -> None:
    text.family("node_state_known", "gauge", "0 when the state of this server could not be found out.")
    text.sample("node_state_known", int(node is not None))
    text.family("datastore_info", "gauge", "What k3s on this server would start on; always 1.")
    if node is not None:
        text.sample("datastore_info", 1, datastore=node.datastore.value, k3s_version=node.k3s_version or "")
