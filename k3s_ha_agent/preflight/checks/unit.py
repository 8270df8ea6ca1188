"""k3s is a unit of systemd, and runs now; or, before a join, does not."""

from __future__ import annotations

from k3s_ha_agent.host.units import UnitState
from k3s_ha_agent.model import CheckResult, Kind
from k3s_ha_agent.preflight.results import About, known, passed, refused, warned
from k3s_ha_agent.preflight.subject import Subject

NAME = "unit"
FOR = frozenset({Kind.MIGRATE, Kind.ROLLBACK, Kind.JOIN})
ABOUT = About(
    looks_at="the unit's load, active and sub state, its type, its queued job and its restart counter, over D-Bus",
    refuses="the unit does not exist or is masked, is not `active (running)` (`auto-restart` is a crash loop), or for "
    "a "
    "join does run, or it is not of Type=notify, or systemd has a job queued for it",
    warns="systemd has restarted it by itself since it was last started on purpose",
    remedy="`systemctl status k3s`, mend what is wrong, `systemctl start k3s`",
    facts="M5, ten facts 10",
)

BY_HAND = "; if its etcd is lost: docs/how-to/roll-back.md#an-etcd-that-does-not-come-up-any-more"


def check(subject: Subject) -> CheckResult:
    unit = known(subject.unit)
    if unit.load_state != "loaded":
        return refused(
            NAME,
            f"systemd says {unit.load_state} of {unit.name}.",
            "k3s installed as a unit of systemd; the agent drives the unit and nothing else.",
            f"systemctl status {unit.name}; if k3s runs under another name, set unit: in /etc/k3s-ha-agent/config.yaml",
        )
    if subject.kind is Kind.JOIN:
        return _stopped(unit)
    if unit.active_state != "active" or unit.sub_state != "running":
        return refused(
            NAME,
            f"{unit.name} is {unit.active_state} ({unit.sub_state}), restarted {unit.n_restarts} times.",
            "k3s active (running): a server that does not work is mended before it is converted.",
            f"journalctl -u {unit.name} -n 50; systemctl start {unit.name}"
            + (BY_HAND if subject.kind is Kind.ROLLBACK else ""),
        )
    if unit.type not in ("notify", "notify-reload"):
        return refused(
            NAME,
            f"{unit.name} has Type={unit.type}.",
            "Type=notify, as k3s's installer writes it: READY=1 is how systemd and the agent know that k3s is up, "
            "and so that the conversion has ended.",
            f"systemctl edit {unit.name}: [Service], Type=notify; systemctl daemon-reload; "
            f"systemctl restart {unit.name}",
        )
    if unit.job:
        return _job(unit)
    if unit.n_restarts:
        return warned(
            NAME,
            f"{unit.name} is active, but systemd has restarted it {unit.n_restarts} times by itself.",
            "A k3s that does not crash.",
            f"journalctl -u {unit.name} | grep -E 'level=fatal|Main process exited'",
        )
    return passed(NAME, f"{unit.name} is active (running).")


def _stopped(unit: UnitState) -> CheckResult:
    if unit.active_state not in ("inactive", "failed"):
        return refused(
            NAME,
            f"{unit.name} is {unit.active_state} ({unit.sub_state}).",
            "k3s stopped: one that runs has a cluster already, if only its own.",
            f"If it is of no use any more: systemctl disable --now {unit.name}; see the check empty-data-dir",
        )
    return _job(unit) if unit.job else passed(NAME, f"{unit.name} is installed and does not run.")


def _job(unit: UnitState) -> CheckResult:
    return refused(
        NAME,
        f"systemd has job {unit.job} queued for {unit.name}.",
        "No job queued: somebody else is about to start or stop k3s.",
        f"systemctl list-jobs; wait until {unit.name} has none",
    )
