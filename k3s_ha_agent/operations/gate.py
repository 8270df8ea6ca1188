"""The gate: what keeps k3s from starting on a half-copied datastore during the window.

A persistent drop-in of the k3s unit. ``Restart=no`` because systemd's restart after five seconds
is what turns a killed copy into a "successful" one (k3s-facts, "Seen" 1, "ten facts" 3 and 10).
The ``ExecStartPre`` is plain ``sh`` on purpose: it must hold when our package is gone or broken.
``TimeoutStartSec=0`` as k3s's installer has it ("ten facts" 10): the conversion has the operation's
deadline, and a shorter limit of the unit's own would end it half-way.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from k3s_ha_agent.errors import ConfigurationError
from k3s_ha_agent.k3s.layout import Layout
from k3s_ha_agent.settings import GATE, PLAIN_PATH


def path(systemd_dir: Path, unit: str) -> Path:
    return systemd_dir / f"{unit}.d" / GATE


HELP = "systemctl start k3s-ha-agent-rescue.service"
Text = Callable[[Layout, str], str]
"""Makes the drop-in for a layout and an operation's id."""


def _plain(*paths: Path) -> tuple[str, ...]:
    """The paths as text. ConfigurationError when one could not stand in the drop-in unquoted."""
    for path_ in paths:
        if not PLAIN_PATH.fullmatch(str(path_)):
            raise ConfigurationError(
                f"The path {str(path_)!r} has characters the gate cannot hold safely.",
                next_step="Use a data-dir of letters, digits and . _ / @ + - only.",
            )
    return tuple(map(str, paths))


def join_text(drop_in: Path) -> Text:
    """The gate of a join: k3s may start only as a member, or with our drop-in that says whom to join.

    Without either it would begin a cluster of its own (k3s-facts J10, R5). Nor once its member was removed: it would
    join again, unseen (k3s-facts 4.1, tombstone).
    """

    def text(layout: Layout, operation_id: str) -> str:
        wal, ours, tombstone = _plain(layout.etcd_member_wal, drop_in, layout.tombstone)
        return f"""\
# Written by k3s-ha-agent for operation {operation_id}, removed by it when the operation ends.
# k3s may start only as a member of the cluster it joins. By hand: {HELP}
[Unit]
StartLimitIntervalSec=0

[Service]
Restart=no
TimeoutStartSec=0
ExecStartPre=/bin/sh -c 'if [ ! -e {wal} ] && [ ! -e {ours} ]; then \\
echo "k3s-ha-agent: refusing to start k3s: it would begin a cluster of its own, because {ours} is gone. \\
Run: {HELP}" >&2; exit 1; fi; \\
if [ -e {tombstone} ]; then \\
echo "k3s-ha-agent: refusing to start k3s: its member was removed, and it would join again. \\
Run: {HELP}" >&2; exit 1; fi'
"""

    return text


def leave_text(layout: Layout, operation_id: str) -> str:
    """The gate of a server that leaves: k3s does not start at all, it would join again."""
    return f"""\
# Written by k3s-ha-agent for operation {operation_id}, removed by it when the operation ends.
[Unit]
StartLimitIntervalSec=0

[Service]
Restart=no
ExecStartPre=/bin/sh -c 'echo "k3s-ha-agent: refusing to start k3s: this server is leaving its cluster. \\
Start the agent, it finishes or goes back: systemctl start k3s-ha-agent.service" >&2; exit 1'
"""


def text(layout: Layout, operation_id: str) -> str:
    """The drop-in of migrate and rollback. ConfigurationError when a path could not stand in it unquoted."""
    wal, state = _plain(layout.etcd_member_wal, layout.state_db)
    help_ = HELP
    return f"""\
# Written by k3s-ha-agent for operation {operation_id}, removed by it when the operation ends.
# k3s may start only when exactly one datastore is there: etcd ({wal})
# or SQLite ({state}). Both: a copy that did not end. None: k3s would begin an empty cluster.
# By hand: {help_}
[Unit]
StartLimitIntervalSec=0

[Service]
Restart=no
TimeoutStartSec=0
ExecStartPre=/bin/sh -c 'if [ -e {wal} ] && [ -e {state} ]; then \
echo "k3s-ha-agent: refusing to start k3s on a half-copied datastore: {state} still has its old name beside {wal}. \
Run: {help_}" >&2; exit 1; fi; \
if [ ! -e {wal} ] && [ ! -e {state} ]; then \
echo "k3s-ha-agent: refusing to start k3s without a datastore: neither {state} nor {wal} exists. \
Run: {help_}" >&2; exit 1; fi'
"""
