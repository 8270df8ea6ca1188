"""Migrate: k3s's own conversion from SQLite to etcd, watched, proven, and undone when it is not proven."""

from __future__ import annotations

from k3s_ha_agent.host.journald import JournalSource
from k3s_ha_agent.k3s.configuration import drop_in_path
from k3s_ha_agent.model import Datastore, Kind
from k3s_ha_agent.operations.k3s_health import K3sHealth
from k3s_ha_agent.operations.plan import Plan
from k3s_ha_agent.operations.steps.arm_rescue import ArmRescue, DisarmRescue
from k3s_ha_agent.operations.steps.close_gate import CloseGate, OpenGate
from k3s_ha_agent.operations.steps.commit import Commit
from k3s_ha_agent.operations.steps.enable_etcd import EnableEtcd
from k3s_ha_agent.operations.steps.hold_still import HoldStill
from k3s_ha_agent.operations.steps.prove_etcd import ProveEtcd
from k3s_ha_agent.operations.steps.save_pre_image import SavePreImage
from k3s_ha_agent.operations.steps.seal_pre_image import SealPreImage
from k3s_ha_agent.operations.steps.start_k3s import StartK3s
from k3s_ha_agent.operations.steps.stop_k3s import StopK3s
from k3s_ha_agent.operations.steps.tidy_up import DropOldQuarantine, FirstSnapshot, RetireSqlite
from k3s_ha_agent.settings import Settings


def plan(settings: Settings, health: K3sHealth, journal: JournalSource, *, timeout: float, stability: float) -> Plan:
    """The steps of a native migration. ``timeout`` and ``stability`` in seconds."""
    layout, units, unit, systemd_dir = health.layout, health.units, settings.unit, settings.systemd_dir
    drop_in = drop_in_path(settings.k3s_config)
    return Plan(
        kind=Kind.MIGRATE,
        commitment="commit",
        steps=(
            SavePreImage(units, layout, unit, settings.k3s_config, settings.state_dir),
            ArmRescue(
                units,
                layout,
                unit,
                systemd_dir,
                drop_in,
                layout.quarantine,
                goal=Datastore.SQLITE.value,
                timeout=timeout,
                undo_timeout=settings.undo_timeout,
            ),
            CloseGate(units, layout, unit, systemd_dir, start_timeout=settings.start_timeout),
            StopK3s(health, Datastore.SQLITE, settings.stop_timeout, settings.start_timeout),
            SealPreImage(health, settings.state_dir, settings.stop_timeout),
            EnableEtcd(drop_in),
            StartK3s(health, journal, settings.stop_timeout, expects_copy=True),
            ProveEtcd(health, settings.role_timeout),
            HoldStill(health, Datastore.ETCD, stability),
            Commit("Proven: etcd holds every key and k3s is well on it. Committing the migration."),
            DisarmRescue(units),
            RetireSqlite(layout),
            OpenGate(units, unit, systemd_dir, settings.start_timeout),
            FirstSnapshot(layout, settings.state_dir),
            DropOldQuarantine(layout),
        ),
    )
