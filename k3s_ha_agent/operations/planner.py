"""The plan of an operation, made anew from its record: the same record gives the same plan."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from k3s_ha_agent.durations import parse_duration
from k3s_ha_agent.errors import NotImplementedYet
from k3s_ha_agent.host.journald import JournalSource
from k3s_ha_agent.host.units import Units
from k3s_ha_agent.k3s.layout import Layout
from k3s_ha_agent.model import Kind, Operation
from k3s_ha_agent.operations import join, migrate, rollback
from k3s_ha_agent.operations.k3s_health import K3sHealth
from k3s_ha_agent.operations.peers import Peers
from k3s_ha_agent.operations.plan import Plan
from k3s_ha_agent.settings import Settings


class Planner:
    def __init__(self, settings: Settings, units: Units, journal: JournalSource) -> None:
        self._settings = settings
        self._units = units
        self._journal = journal
        self._layout = Layout(settings.data_dir)

    def plan(self, operation: Operation) -> Plan:
        """The plan, without steps the record does not know: it may be of another version of the agent."""
        plan = self._plan(operation)
        known = {record.name for record in operation.steps}
        if not known:
            return plan
        return dataclasses.replace(plan, steps=tuple(step for step in plan.steps if step.name in known))

    def _plan(self, operation: Operation) -> Plan:
        facts, parameters = operation.facts, operation.parameters
        health = K3sHealth(
            self._units,
            self._settings.unit,
            self._layout,
            int(facts["api_port"]),
            str(facts["node_name"]),
            self._settings.k3s_config,
            self._settings.root,
        )
        stability = parameters.get("stability")
        stability_window = self._settings.stability_window if stability is None else parse_duration(str(stability))
        timeout = float(facts["timeout"])
        if operation.kind is Kind.MIGRATE:
            return migrate.plan(self._settings, health, self._journal, timeout=timeout, stability=stability_window)
        if operation.kind is Kind.JOIN or facts.get("undoes_kind") == Kind.JOIN.value:
            return self._membership(operation, health, timeout, stability_window)
        if operation.kind is Kind.ROLLBACK:
            return rollback.plan(
                self._settings,
                health,
                self._journal,
                sealed=Path(facts["sealed"]),
                sealed_sha256=str(facts["sealed_sha256"]),
                timeout=timeout,
                stability=stability_window,
            )
        raise NotImplementedYet(f"There is no plan for {operation.kind} yet.")

    def _membership(self, operation: Operation, health: K3sHealth, timeout: float, stability: float) -> Plan:
        facts = operation.facts
        peers = self.peers(operation.id, str(facts["target"]), str(facts["node_name"]))
        address = str(facts["node_ip"])
        if operation.kind is Kind.JOIN:
            wait = operation.parameters.get("on_conflict") == "wait"
            return join.join_plan(
                self._settings,
                health,
                self._journal,
                peers,
                address=address,
                wait=wait,
                timeout=timeout,
                stability=stability,
            )
        before = str(facts["unit_file_state_before"])
        return join.leave_plan(
            self._settings, health, peers, address=address, unit_file_state_before=before, timeout=timeout
        )

    def peers(self, operation_id: str, url: str, node_name: str) -> Peers:
        """The rest of the cluster for one operation."""
        kept = Layout(self._layout.quarantine / operation_id)
        return Peers(self._layout, url, self.token_path(operation_id), self._settings.runtime_dir, node_name, kept)

    def token_path(self, operation_id: str) -> Path:
        """Where the token of a request lies, 0600, until the operation has ended."""
        return self._settings.state_dir / "operations" / operation_id / "token"


def forward_timeout(
    settings: Settings, *, live_rows: int, live_bytes: int, fsync_p99: float, stability: float
) -> float:
    """Seconds to allow for the way forward, from the data and the disk; never below the settings' minimum.

    k3s writes one key at a time and etcd syncs each Put (k3s-facts, "ten facts" 7), so a key costs
    about one fsync; four times that, and a slow megabyte per second for the values, is what is
    allowed on top of the minimum.
    """
    copying = live_rows * fsync_p99 * 4 + live_bytes / 1_000_000
    return max(settings.migrate_timeout_min, copying) + settings.stop_timeout + settings.role_timeout + stability
