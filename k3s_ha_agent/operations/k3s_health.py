"""Is k3s well, and on which datastore: what several steps have to wait for or prove.

Every wait has an end and every answer is measured, none inferred.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from k3s_ha_agent.errors import ApiserverError, DeadlineExceeded, StepFailed, SystemdError
from k3s_ha_agent.host import selinux
from k3s_ha_agent.host.units import Units, UnitState
from k3s_ha_agent.k3s import configuration
from k3s_ha_agent.k3s.apiserver import Apiserver, Node
from k3s_ha_agent.k3s.layout import Layout
from k3s_ha_agent.model import Datastore
from k3s_ha_agent.operations.threads import in_thread
from k3s_ha_agent.settings import RESCUE_SERVICE

T = TypeVar("T")
ETCD_ROLE = "etcd"


async def until(ask: Callable[[], Awaitable[T | None]], *, timeout: float, what: str, pause: float = 0.5) -> T:
    """Ask until the answer is not None. DeadlineExceeded, naming ``what``, after ``timeout`` seconds."""
    end = time.monotonic() + timeout
    while True:
        answer = await ask()
        if answer is not None:
            return answer
        if time.monotonic() >= end:
            raise DeadlineExceeded(f"{what} did not come within {timeout:.0f} seconds.")
        await asyncio.sleep(pause)


@dataclasses.dataclass(frozen=True, slots=True)
class K3sHealth:
    """Asks systemd and the API server about this node."""

    units: Units
    unit: str
    layout: Layout
    api_port: int
    node_name: str
    k3s_config: Path
    root: Path
    """Prefix for the environment and configuration files that are only read; other than / in tests only."""

    async def restore_contexts(self) -> None:
        """What k3s is about to read gets the SELinux contexts it may read; nothing elsewhere."""
        drop_ins = self.k3s_config.with_name(self.k3s_config.name + ".d")
        token = self.k3s_config.with_name("k3s-ha-agent-token")
        await in_thread(selinux.restore, (self.layout.db, drop_ins, token))

    async def state(self) -> UnitState:
        return await self.units.state(self.unit)

    async def api_ready(self) -> str | None:
        """``"ok"`` when the API server's /readyz says so, else None."""
        try:
            async with Apiserver.from_layout(self.layout, port=self.api_port) as api:
                return "ok" if await api.readyz() else None
        except ApiserverError:
            return None

    async def node(self) -> Node | None:
        """This server's Node object; None when the API server does not answer with it."""
        try:
            async with Apiserver.from_layout(self.layout, port=self.api_port) as api:
                return await api.node(self.node_name)
        except ApiserverError:
            return None

    async def node_with_etcd_role(self) -> Node | None:
        node = await self.node()
        return node if node is not None and ETCD_ROLE in node.roles else None

    async def wait_api_ready(self, timeout: float) -> None:
        await until(self.api_ready, timeout=timeout, what="A ready API server")

    async def require_unbroken_run(self, invocation_id: str) -> UnitState:
        """The unit as it is, when it is the one that was started and was never restarted.

        StepFailed otherwise: a restart during the copy is how half a cluster comes to look whole
        (k3s-facts, "Seen" 1).
        """
        state = await self.state()
        if state.n_restarts > 0:
            raise StepFailed(f"{self.unit} was restarted {state.n_restarts} times by systemd.")
        if state.active_state in ("failed", "inactive", "deactivating"):
            raise StepFailed(f"{self.unit} is {state.active_state} (result {state.result}): k3s ended.")
        if state.invocation_id != invocation_id:
            raise StepFailed(f"{self.unit} was started again by somebody else (another invocation id).")
        return state


async def require_dead(health: K3sHealth) -> None:
    """StepFailed when k3s runs: files are moved only at rest."""
    state = await health.state()
    if state.main_pid != 0 or state.active_state not in ("inactive", "failed"):
        raise StepFailed(
            f"{health.unit} is {state.active_state} (pid {state.main_pid}): somebody started it in the window.",
            next_step="Leave k3s alone until the operation has ended; see k3s-ha-agentctl operations.",
        )


LEADS_ELSEWHERE = ("server", "datastore-endpoint")
"""Flags that make k3s leave ``state.db`` alone and begin or join another datastore (k3s-facts M4, M6)."""


async def require_configuration(health: K3sHealth, goal: Datastore) -> None:
    """StepFailed when k3s, started now, would not come up on ``goal``: somebody changed its configuration.

    With ``member/wal`` there k3s looks at none of it ("ten facts" 1), but for ``cluster-reset`` (R7), so the rest is
    asked for a start on SQLite files: to stay on them, or (goal etcd) to convert them.
    ConfigurationError when the configuration cannot be read; k3s would not start with it either.
    """
    state = await health.state()
    found = await in_thread(
        configuration.read,
        state.exec_start,
        state.environment,
        state.environment_files,
        health.root,
        health.k3s_config,
        unit=health.unit,
    )
    wrong = [found.get(flag) for flag in LEADS_ELSEWHERE if not health.layout.etcd_member_wal.exists()]
    if goal is Datastore.SQLITE and found.flag("cluster-init"):
        wrong.append(found.get("cluster-init"))
    if found.flag("cluster-reset"):
        wrong.append(found.get("cluster-reset"))
    said = [setting for setting in wrong if setting is not None and setting.value]
    if said:
        raise StepFailed(
            f"Not starting k3s: {' and '.join(f'{s.flag} is set by {s.source}' for s in said)}; "
            f"it would not come up on {goal}.",
            next_step=f"Take it out there, then: systemctl start {RESCUE_SERVICE}",
        )


async def start_and_wait_active(health: K3sHealth, timeout: float) -> UnitState:
    """Start k3s unless it is running, and wait for READY=1. SystemdError when it does not come up."""
    state = await health.state()
    if state.active_state != "active":
        await health.restore_contexts()
        await health.units.reset_failed(health.unit)
        job = await health.units.start_unit(health.unit)
        result = await job.wait(timeout)
        if result != "done":
            raise SystemdError(
                f"Starting {health.unit} ended as {result!r}.",
                next_step=f"Look at journalctl -u {health.unit} -n 50.",
            )
    return await health.state()


async def stop_and_wait_dead(health: K3sHealth, timeout: float) -> UnitState:
    """Stop k3s; kill its main process when it does not end in time. SystemdError when it lives on.

    KillMode=process: containers and their shims live on, as with any stop of k3s. A job that is queued for it,
    such as the start at boot that waits for other units, counts as running: stopping takes its place.
    """
    for signal in (None, 9):
        state = await health.state()
        if state.active_state in ("inactive", "failed") and state.main_pid == 0 and not state.job:
            return state
        if signal is not None:
            with contextlib.suppress(SystemdError):  # systemd's own limit may have ended it just now
                await health.units.kill_unit(health.unit, signal)
        job = await health.units.stop_unit(health.unit)
        try:
            await job.wait(timeout)
        except SystemdError:
            if signal is not None:
                raise
    state = await health.state()
    if state.main_pid != 0 or state.active_state not in ("inactive", "failed"):
        raise SystemdError(f"{health.unit} is still {state.active_state} after stop and kill (pid {state.main_pid}).")
    return state
