"""The agent made to stand still at a chosen point, so that a node can be killed exactly there.

In the node the real daemon runs, composed as ``__main__`` composes it, with an observer that stops the process
(SIGSTOP) when the engine passes the point: ``after do stop-k3s``, ``before undo prove``, …
"""

from __future__ import annotations

from tests.lab.node import AGENT, Node

PROGRAM = "/usr/local/lib/lab-halting-agent"
DROP_IN = f"/usr/lib/systemd/system/{AGENT}.d/zz-lab-halt.conf"
"""Not below /etc: what is there is compared."""
SAID = "/run/k3s-ha-agent/lab-halted"

_TEXT = f"""\
import asyncio, os, signal, sys
from pathlib import Path
from k3s_ha_agent import settings
from k3s_ha_agent.__main__ import run
from k3s_ha_agent.host.journald import JournalctlSource, configure_logging


def observe(point):
    if point == sys.argv[1]:
        Path({SAID!r}).write_text(point)
        os.kill(os.getpid(), signal.SIGSTOP)


chosen = settings.load(settings.CONFIG, settings.CONF_D)
configure_logging(chosen.log_level)
sys.exit(asyncio.run(run(chosen, JournalctlSource(), observe)))
"""


def halt_at(node: Node, point: str) -> None:
    """The agent stands still when it passes ``point``: from now on, or from the next boot on when the node is off."""
    node.write(PROGRAM, _TEXT)
    node.write(DROP_IN, f'[Service]\nWatchdogSec=0\nExecStart=\nExecStart=/usr/bin/python3 -I {PROGRAM} "{point}"\n')
    if node.running:
        node.systemctl("daemon-reload")
        node.systemctl("restart", AGENT)
        node.wait_for_agent()


def wait_until_halted(node: Node, point: str) -> None:
    node.wait_for(lambda: node.exists(SAID) and node.read(SAID) == point, poll=0.02, what=f"the agent is at {point!r}")


def halt_no_more(node: Node) -> None:
    """From the next start on it is the agent as installed. The node must be off."""
    assert not node.running
    node.remove(DROP_IN)


def go_on(node: Node) -> None:
    """Let the agent go on from where it stands still."""
    node.systemctl("kill", "--kill-who=main", "--signal=CONT", AGENT)
