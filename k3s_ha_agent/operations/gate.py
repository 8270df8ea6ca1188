"""The gate: what keeps k3s from starting on a half-copied datastore during the window.

A persistent drop-in of the k3s unit. ``Restart=no`` because systemd's restart after five seconds
is what turns a killed copy into a "successful" one (k3s-facts, "Seen" 1, "ten facts" 3 and 10).
The ``ExecStartPre`` is plain ``sh`` on purpose: it must hold when our package is gone or broken.
"""

from __future__ import annotations

import re
from pathlib import Path

from k3s_ha_agent.errors import ConfigurationError
from k3s_ha_agent.k3s.layout import Layout

NAME = "zz-k3s-ha-agent-gate.conf"
_PLAIN = re.compile(r"[A-Za-z0-9._/@+-]+")


def path(systemd_dir: Path, unit: str) -> Path:
    return systemd_dir / f"{unit}.d" / NAME


def text(layout: Layout, operation_id: str) -> str:
    """The drop-in. ConfigurationError when a path could not stand in it unquoted."""
    wal, state = str(layout.etcd_member_wal), str(layout.state_db)
    for value in (wal, state):
        if not _PLAIN.fullmatch(value):
            raise ConfigurationError(
                f"The path {value!r} has characters the gate cannot hold safely.",
                next_step="Use a data-dir of letters, digits and . _ / @ + - only.",
            )
    help_ = "systemctl start k3s-ha-agent-rescue.service"
    return f"""\
# Written by k3s-ha-agent for operation {operation_id}, removed by it when the operation ends.
# k3s may start only when exactly one datastore is there: etcd ({wal})
# or SQLite ({state}). Both: a copy that did not end. None: k3s would begin an empty cluster.
# By hand: {help_}
[Unit]
StartLimitIntervalSec=0

[Service]
Restart=no
ExecStartPre=/bin/sh -c 'if [ -e {wal} ] && [ -e {state} ]; then \
echo "k3s-ha-agent: refusing to start k3s on a half-copied datastore: {state} still has its old name beside {wal}. \
Run: {help_}" >&2; exit 1; fi; \
if [ ! -e {wal} ] && [ ! -e {state} ]; then \
echo "k3s-ha-agent: refusing to start k3s without a datastore: neither {state} nor {wal} exists. \
Run: {help_}" >&2; exit 1; fi'
"""
