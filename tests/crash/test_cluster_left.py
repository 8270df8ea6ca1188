"""A join that is taken back twice: its server has left its cluster the first time, or nobody could be asked."""

from __future__ import annotations

import pytest

from tests.crash.cluster import ClusterNode, cluster
from tests.crash.quick_node import wait_for
from tests.crash.test_cluster import hold_join, members, migrate, nothing_is_left_of, stable
from tests.standin.networks import own_network

KILLING_SYSTEMCTL = """#!/bin/sh
[ "$1" != stop ] || {{ kill -9 $PPID; exit 1; }}
exec {real} "$@"
"""


@pytest.mark.parametrize("who", ["rescue", "agent", "agent, untold", "rescue, untold"])
def test_taken_back_again_after_it_has_left(two: list[ClusterNode], who: str) -> None:
    """The rescue is killed between the leaving and the moving aside. Started once more on its tombstone, k3s would
    join again, and its stop would take the quorum of two with it."""
    n1, n2 = two
    before = migrate(n1)
    operation = hold_join(n2, n1, "before do prove")
    n2.stop_agent(9)
    killing = n2.root / "killing"
    killing.mkdir()
    (killing / "systemctl").write_text(KILLING_SYSTEMCTL.format(real=n2.root / "bin/systemctl"))
    (killing / "systemctl").chmod(0o755)
    assert n2.run_rescue(path=f"{killing}:{n2.root}/bin:/usr/bin:/bin").returncode == -9
    wait_for((n2.db / "etcd/tombstone").exists, "n2's etcd knows that it has left")
    wait_for(lambda: n2.k3s_state() != "active", "n2's k3s ends")
    assert n2.try_systemctl("start", "k3s.service").returncode != 0, "the gate lets nobody start it"
    if who == "rescue":
        done = n2.run_rescue()
        assert done.returncode == 0, done.stdout
        assert members(n1) == {"n1": True}
        n2.start_agent()
    elif who == "agent":
        n1.systemctl("stop", "k3s.service")  # nobody can say what n2 is
        n2.start_agent()
        wait_for(lambda: "has left the cluster already" in (n2.root / "agent.log").read_text(), "the agent sees it")
        n1.systemctl("start", "k3s.service")
    else:  # k3s ended before it wrote its tombstone
        (n2.db / "etcd/tombstone").unlink()
        if who == "rescue, untold":
            done = n2.run_rescue()
            assert done.returncode == 1 and "systemctl restart k3s-ha-agent.service" in done.stdout, done.stdout
        n2.start_agent()
    assert n2.finish(operation)["outcome"] == "rolled_back"
    assert members(n1) == {"n1": True}
    assert stable(n1.etcd_keys()) == stable(before), "n1 answers alone"
    nothing_is_left_of(n2)


def test_an_agent_that_was_not_restarted_begins_nothing() -> None:
    """It could not take the join back, the rescue did as far as it can: what is left is done before anything else."""
    with own_network(), cluster(2, settings={"undo_timeout": "5s"}) as (n1, n2):
        migrate(n1)
        operation = hold_join(n2, n1, "before do join-cluster")
        n2.change_faults({"die_at": "before-join"})
        n1.systemctl("stop", "k3s.service")
        n2.trace.with_suffix(".go").touch()
        assert n2.finish(operation)["outcome"] == "rollback_failed"
        assert n2.run_rescue().returncode == 0
        n1.systemctl("start", "k3s.service")
        body = {"server": n1.url, "token_file": str(n1.token_for(n2))}
        wait_for(lambda: members(n1) == {"n1": True}, "n1 answers again")
        status, refused = n2.api("POST", "/v1/join", body)
        assert (status, refused["code"], refused["operation"]) == (409, "conflict", operation), refused
        assert "systemctl restart k3s-ha-agent.service" in refused["next_step"]
        n2.stop_agent()
        n2.start_agent()
        assert n2.finish(operation)["outcome"] == "rolled_back"
        nothing_is_left_of(n2)
        assert n2.api("POST", "/v1/join", {**body, "dry_run": True})[0] == 200
