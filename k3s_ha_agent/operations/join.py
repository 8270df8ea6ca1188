"""Join: this server becomes a member of an etcd cluster, proven from both ends, or leaves no trace in it."""

from __future__ import annotations

from pathlib import Path

from k3s_ha_agent.host.journald import JournalSource
from k3s_ha_agent.k3s.configuration import drop_in_path
from k3s_ha_agent.model import Datastore, Kind
from k3s_ha_agent.operations import gate
from k3s_ha_agent.operations.k3s_health import K3sHealth
from k3s_ha_agent.operations.peers import Peers
from k3s_ha_agent.operations.plan import Plan
from k3s_ha_agent.operations.steps.arm_rescue import NOTHING, ArmRescue, DisarmRescue
from k3s_ha_agent.operations.steps.close_gate import CloseGate, OpenGate
from k3s_ha_agent.operations.steps.commit import Commit
from k3s_ha_agent.operations.steps.configure_join import ConfigureJoin, ForgetToken, KeepToken
from k3s_ha_agent.operations.steps.enable_unit import EnableUnit
from k3s_ha_agent.operations.steps.hold_still import HoldStill
from k3s_ha_agent.operations.steps.join_cluster import JoinCluster
from k3s_ha_agent.operations.steps.leave import CheckLeave, ForgetNode, StopForGood, Unconfigure
from k3s_ha_agent.operations.steps.membership import Announce, ReleaseLock, RemoveMember, TakeLock
from k3s_ha_agent.operations.steps.prove_join import ProveJoin
from k3s_ha_agent.operations.steps.retire_server import KeepDataDir, RetireServer
from k3s_ha_agent.operations.steps.tidy_up import DropOldQuarantine
from k3s_ha_agent.settings import Settings


def token_file(settings: Settings) -> Path:
    """Where k3s reads the token of the cluster it joined; ours, 0600, beside its configuration."""
    return settings.k3s_config.with_name("k3s-ha-agent-token")


def join_plan(
    settings: Settings,
    health: K3sHealth,
    journal: JournalSource,
    peers: Peers,
    *,
    address: str,
    wait: bool,
    timeout: float,
    stability: float,
) -> Plan:
    """The steps of a join. ``address``: this server's; ``timeout`` and ``stability`` in seconds."""
    layout, units, unit, systemd_dir = health.layout, health.units, settings.unit, settings.systemd_dir
    drop_in, token = drop_in_path(settings.k3s_config), token_file(settings)
    return Plan(
        kind=Kind.JOIN,
        commitment="commit",
        steps=(
            KeepToken(peers.token_file),
            TakeLock(peers, address, wait, timeout),
            Announce(peers, address),
            ArmRescue(
                units,
                layout,
                unit,
                systemd_dir,
                drop_in,
                layout.quarantine,
                goal=NOTHING,
                timeout=timeout,
                undo_timeout=settings.undo_timeout,
                token_file=token,
            ),
            CloseGate(units, layout, unit, systemd_dir, gate.join_text(drop_in)),
            KeepDataDir(layout),
            ConfigureJoin(drop_in, peers.url, peers.token_file, token),
            EnableUnit(units, unit),
            JoinCluster(health, journal, peers, address, settings.stop_timeout),
            ProveJoin(health, peers, address, settings.role_timeout),
            HoldStill(health, Datastore.ETCD, stability),
            Commit("The join is committed: this server is a voter, seen from both ends."),
            DisarmRescue(units),
            OpenGate(units, unit, systemd_dir, settings.start_timeout),
            ReleaseLock(peers),
            ForgetToken(peers.token_file),
            DropOldQuarantine(layout),
        ),
    )


def leave_plan(
    settings: Settings, health: K3sHealth, peers: Peers, *, address: str, unit_file_state_before: str, timeout: float
) -> Plan:
    """The steps of leaving: the rollback of a committed join. Its point of no return is the removal of the member."""
    layout, units, unit, systemd_dir = health.layout, health.units, settings.unit, settings.systemd_dir
    drop_in = drop_in_path(settings.k3s_config)
    return Plan(
        kind=Kind.ROLLBACK,
        commitment="remove-member",
        no_way_back="remove-member",
        steps=(
            CheckLeave(peers, address),
            TakeLock(peers, address, wait=False, timeout=timeout),
            CloseGate(units, layout, unit, systemd_dir, gate.leave_text),
            RemoveMember(peers, address),
            StopForGood(health, settings.stop_timeout),
            ForgetNode(peers),
            ReleaseLock(peers),
            RetireServer(layout),
            Unconfigure(units, unit, drop_in, token_file(settings), unit_file_state_before),
            OpenGate(units, unit, systemd_dir),
            DropOldQuarantine(layout),
        ),
    )
