"""Rollback on request: undo what this server committed last.

``writes: discard`` puts the sealed pre-image of the migration back. Failing means back on etcd,
where it came from: etcd's directory is only ever moved, whole.
"""

from __future__ import annotations

from pathlib import Path

from k3s_ha_agent.host.journald import JournalSource
from k3s_ha_agent.k3s.configuration import drop_in_path
from k3s_ha_agent.model import Datastore, Kind
from k3s_ha_agent.operations.k3s_health import K3sHealth
from k3s_ha_agent.operations.plan import Plan
from k3s_ha_agent.operations.steps.arm_rescue import ArmRescue, DisarmRescue
from k3s_ha_agent.operations.steps.check_pre_image import CheckPreImage
from k3s_ha_agent.operations.steps.close_gate import CloseGate, OpenGate
from k3s_ha_agent.operations.steps.commit import Commit
from k3s_ha_agent.operations.steps.enable_etcd import DisableEtcd
from k3s_ha_agent.operations.steps.hold_still import HoldStill
from k3s_ha_agent.operations.steps.prove_sqlite import ProveSqlite
from k3s_ha_agent.operations.steps.restore_sqlite import RestoreSqlite
from k3s_ha_agent.operations.steps.retire_etcd import RetireEtcd
from k3s_ha_agent.operations.steps.start_k3s import StartK3s
from k3s_ha_agent.operations.steps.stop_k3s import StopK3s
from k3s_ha_agent.operations.steps.tidy_up import DropOldQuarantine
from k3s_ha_agent.settings import Settings


def plan(
    settings: Settings,
    health: K3sHealth,
    journal: JournalSource,
    *,
    sealed: Path,
    sealed_sha256: str,
    timeout: float,
    stability: float,
) -> Plan:
    """The steps of a rollback that discards later writes. ``timeout`` and ``stability`` in seconds."""
    layout, units, unit, systemd_dir = health.layout, health.units, settings.unit, settings.systemd_dir
    drop_in = drop_in_path(settings.k3s_config)
    return Plan(
        kind=Kind.ROLLBACK,
        commitment="commit",
        steps=(
            CheckPreImage(sealed, sealed_sha256),
            ArmRescue(
                units,
                layout,
                unit,
                systemd_dir,
                drop_in,
                layout.quarantine,
                goal=Datastore.ETCD.value,
                timeout=timeout,
                undo_timeout=settings.undo_timeout,
            ),
            CloseGate(units, layout, unit, systemd_dir, start_timeout=settings.start_timeout),
            StopK3s(health, Datastore.ETCD, settings.stop_timeout, settings.start_timeout),
            DisableEtcd(drop_in),
            RetireEtcd(health, settings.stop_timeout),
            RestoreSqlite(health, settings.stop_timeout),
            StartK3s(health, journal, settings.stop_timeout, expects_copy=False),
            ProveSqlite(health, settings.role_timeout),
            HoldStill(health, Datastore.SQLITE, stability),
            Commit("Proven: k3s runs on the SQLite from before the migration. Committing the rollback."),
            DisarmRescue(units),
            OpenGate(units, unit, systemd_dir, settings.start_timeout),
            DropOldQuarantine(layout),
        ),
    )
