"""k3s takes as long to stop or to start as systemd and the agent allow it: the agent's limits count in the window."""

from __future__ import annotations

import time

from tests.crash.look import nothing_left, one_datastore
from tests.crash.quick_node import ADDRESS, K3S, quick_node, wait_for
from tests.crash.ways import PATIENT
from tests.standin.networks import own_network

LIMIT = 3.0


def test_there_is_nothing_left_to_kill() -> None:
    """k3s-facts: k3s.service sets no TimeoutStopSec=, so systemd's 90 s and the agent's pass at the same moment."""
    with own_network(ADDRESS), quick_node(settings={"stop_timeout": f"{LIMIT}s"}) as node:
        released = node.root / "released"
        waits = f"ExecStopPost=/bin/sh -c 'while [ ! -e {released} ]; do sleep 0.05; done'"
        node.systemd.write_drop_in(K3S, "slow.conf", f"[Service]\n{waits}\n")
        node.systemctl("daemon-reload")
        before = node.keys()
        node.start_agent()
        operation = node.begin("migrate", PATIENT)
        wait_for(lambda: node.k3s_state() == "deactivating", "k3s is being stopped")
        time.sleep(LIMIT * 1.2)  # the agent's limit has passed, the one after its kill has not
        assert node.systemd.unit(K3S)["main_pid"] == 0
        released.touch()
        ended = node.finish(operation)
        node.stop_agent()
        assert ended["outcome"] == "succeeded", ended["reason"]
        one_datastore(node, True, before)
        nothing_left(node)


def test_systemd_does_not_end_a_long_conversion() -> None:
    """k3s-facts, "ten facts" 10: k3s's own unit sets no limit to its start; another one may, if only by default."""
    with own_network(ADDRESS), quick_node(speed={"put_delay": 0.02}) as node:
        node.systemd.write_drop_in(K3S, "limit.conf", "[Service]\nTimeoutStartSec=3\n")
        node.systemctl("daemon-reload")
        before = node.keys()
        assert len(before) * 0.02 > 3, "the conversion takes longer than that"
        node.start_agent()
        ended = node.finish(node.begin("migrate", PATIENT))
        node.stop_agent()
        assert ended["outcome"] == "succeeded", ended["reason"]
        one_datastore(node, True, before)
        nothing_left(node)
