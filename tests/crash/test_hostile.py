"""A hostile neighbourhood: others who start, stop, kill and reconfigure k3s in the window, and D-Bus that goes away.

Whatever they do, it ends on one proven datastore, or as a rollback that failed loudly and that the rescue settles once
its cause is gone. A share of the steps here, all of them by ``make crash``.
"""

from __future__ import annotations

import concurrent.futures
import time

import pytest

from tests.crash.look import Broken
from tests.crash.matrix import Station
from tests.crash.quick_node import K3S, K3S_UNIT, QuickNode, shared_bytecode, wait_for
from tests.crash.scenes import BACK, BY_NAME, FORWARD, FULL, MIGRATE, ROLLBACK_WINDOW, UNDO, scene, some
from tests.crash.ways import PATIENT

# --- many of them ----------------------------------------------------------------------------------


def test_asked_by_ten_at_once(place: Station) -> None:
    """One begins it, the others are told which operation is in their way."""
    with scene(place, FORWARD) as play:
        node = play.node
        node.start_agent()
        earlier = {r["id"] for r in node.records()}
        with concurrent.futures.ThreadPoolExecutor(10) as pool:
            asked = [pool.submit(node.api, "POST", "/v1/migrate", dict(PATIENT)) for _ in range(10)]
            answers = [each.result() for each in asked]
        ((_, began),) = [answer for answer in answers if answer[0] == 202]
        play.operation = began["id"]
        refused = [answer for status, answer in answers if status == 409]
        assert len(refused) == 9
        assert {answer["operation"] for answer in refused} == {play.operation}
        play.curtain("succeeded")
        assert {r["id"] for r in node.records()} - earlier == {play.operation}


# --- k3s -------------------------------------------------------------------------------------------


def somebody(node: QuickNode, does: str) -> None:
    """What somebody else does to k3s; systemd may refuse it, the gate stops it from starting."""
    if does == "kill":
        node.kill_k3s()
        wait_for(lambda: not _dying(node), "the killed k3s is gone")
    else:
        node.try_systemctl(does, K3S)


def _dying(node: QuickNode) -> bool:
    return node.k3s_state() in ("deactivating", "reloading")


MEDDLING = [
    *[(does, f"before do {step}") for does in ("start", "stop", "restart", "kill") for step in MIGRATE],
    *[(does, f"before verify {step}") for does in ("start", "kill") for step in MIGRATE],
]
SHARE = [
    ("start", "before do enable-etcd"),
    ("restart", "before do seal-pre-image"),
    ("stop", "before do hold-still"),
    ("restart", "before verify prove"),
    ("kill", "before verify start-k3s"),
    ("kill", "before do disarm-rescue"),
    ("kill", "before do open-gate"),
]


@pytest.mark.parametrize(("does", "point"), MEDDLING if FULL else SHARE)
def test_somebody_else_at_k3s_in_a_migration(place: Station, does: str, point: str) -> None:
    with scene(place, FORWARD) as play:
        with play.held(point):
            somebody(play.node, does)
        wait_for(lambda: play.record()["phase"] == "finished", "the end")
        if does == "stop" and play.node.k3s_state() == "inactive":
            play.node.systemctl("start", K3S)  # stopped at the commitment by a person: theirs to start
            play.node.stop_agent()
            play.node.trace.unlink()  # a step that needed k3s comes after those that did not
            play.node.start_agent()
        play.curtain()


@pytest.mark.parametrize(
    ("does", "point"),
    [(does, f"before undo {step}") for does in ("start", "stop", "kill") for step in UNDO]
    if FULL
    else [("start", "before undo seal-pre-image"), ("kill", "before undo close-gate")],
)
def test_somebody_else_at_k3s_while_a_migration_is_undone(place: Station, does: str, point: str) -> None:
    with scene(place, BACK) as play:
        with play.held(point):
            somebody(play.node, does)
        wait_for(lambda: play.ended(), "the end")
        if does == "stop" and play.node.k3s_state() == "inactive":
            play.node.systemctl("start", K3S)
        play.curtain("rolled_back")


@pytest.mark.parametrize(
    ("does", "step"),
    [(does, step) for does in ("start", "restart", "kill") for step in ROLLBACK_WINDOW]
    if FULL
    else [("start", "restore-sqlite"), ("kill", "prove")],
)
def test_somebody_else_at_k3s_in_a_rollback(place: Station, does: str, step: str) -> None:
    with scene(place, BY_NAME["rollback forward"]) as play:
        with play.held(f"before do {step}"):
            somebody(play.node, does)
        play.curtain()


def test_what_is_written_by_a_k3s_that_somebody_started_is_kept(place: Station) -> None:
    """Started between the sealing and the conversion, k3s takes writes on SQLite: going back must not lose them."""
    with scene(place, FORWARD) as play:
        with play.held("before do enable-etcd"):
            play.node.systemctl("start", K3S)
            key = play.node.create_configmap("written-in-the-window")
        assert play.ended() == "rolled_back"
        play.before = {**play.before, key: play.node.sqlite_keys()[key]}
        play.curtain("rolled_back")


def test_written_and_stopped_again_while_the_agent_was_away(place: Station) -> None:
    """The agent dies after the sealing, somebody runs k3s for a moment: an older copy must not be relied upon."""
    with scene(place, FORWARD) as play:
        node = play.node
        node.start_agent("after verify seal-pre-image")
        play.way.begin(node)
        play.operation = node.records()[-1]["id"]
        wait_for(lambda: not node.agent_lives(), "the agent's death")
        node.systemctl("start", K3S)
        key = node.create_configmap("written-while-away")
        node.systemctl("stop", K3S)
        node.start_agent()
        assert play.ended() == "rolled_back"
        play.before = {**play.before, key: node.sqlite_keys()[key]}
        play.curtain("rolled_back")


# --- configuration -----------------------------------------------------------------------------------

EDITS = {
    "cluster-init": "cluster-init: true\n",
    "server": "server: https://10.99.0.99:6443\n",
    "garbage": "write-kubeconfig-mode: [0600\n",
}


@pytest.mark.parametrize("edit", ["server", "garbage"])
def test_config_yaml_edited_before_the_start(place: Station, edit: str) -> None:
    """k3s is not started with it, neither forward nor back; the reason names the file; then the rescue helps."""
    with scene(place, FORWARD) as play:
        config = play.node.root / "etc/config.yaml"
        text = config.read_text()
        with play.held("before do enable-etcd"):
            config.write_text(text + EDITS[edit])
        reason = play.loud()
        if str(config) not in reason:
            raise Broken(f"the reason does not name {config}: {reason}")
        assert play.node.k3s_state() != "active"
        config.write_text(text)
        play.rescued()


def test_cluster_init_by_somebody_else_while_going_back(place: Station) -> None:
    """k3s started with it would convert once more, with nobody watching (k3s-facts R3)."""
    with scene(place, BACK) as play:
        config = play.node.root / "etc/config.yaml"
        text = config.read_text()
        with play.held("before undo seal-pre-image"):
            config.write_text(text + EDITS["cluster-init"])
        reason = play.loud()
        assert "cluster-init is set by" in reason and str(config) in reason, reason
        assert not play.node.on_etcd() and play.node.k3s_state() != "active"
        # The rescue cannot read YAML: k3s converts, and the rescue says that it is not back.
        assert not play.node.fire_rescue()
        said = "\n".join(play.node.systemd.messages("k3s-ha-agent-rescue.service"))
        assert "has begun another datastore: look for cluster-init" in said
        config.write_text(text)
        play.rescued()


def test_cluster_init_by_somebody_else_going_forward(place: Station) -> None:
    """It says what we say: the migration goes on, is proven, and the file stays as somebody wrote it."""
    with scene(place, FORWARD) as play:
        config = play.node.root / "etc/config.yaml"
        text = config.read_text()
        with play.held("before do start-k3s"):
            config.write_text(text + EDITS["cluster-init"])
        assert play.curtain("succeeded") == "succeeded"
        assert config.read_text() == text + EDITS["cluster-init"]
        config.write_text(text)


@pytest.mark.parametrize("step", some(MIGRATE, "close-gate", "seal-pre-image", "prove"))
def test_installer_run_again_in_the_window(place: Station, step: str) -> None:
    """It rewrites the unit (drop-ins stay), reloads systemd and restarts k3s."""
    with scene(place, FORWARD) as play:
        node = play.node
        text = K3S_UNIT.format(root=node.root, bytecode=shared_bytecode())
        with play.held(f"before do {step}"):
            node.systemd.write_unit(K3S, text + "Environment=INSTALLED=again\n")
            node.systemctl("daemon-reload")
            node.try_systemctl("restart", K3S)
        play.curtain()
        node.systemd.write_unit(K3S, text)
        node.systemctl("daemon-reload")


# --- D-Bus ---------------------------------------------------------------------------------------------


def away(node: QuickNode) -> None:
    """The bus goes; it comes back when the agent has had time to miss it."""
    node.bus.stop()
    node.trace.with_suffix(".go").touch()
    time.sleep(1.5)
    node.bus.start()
    wait_for(lambda: node.systemd.control("state")["connected"], "systemd is back on the bus")


@pytest.mark.parametrize("step", some(MIGRATE, "arm-rescue", "start-k3s", "open-gate"))
def test_dbus_gone_and_back_in_a_migration(place: Station, step: str) -> None:
    with scene(place, FORWARD) as play:
        with play.held(f"before do {step}"):
            away(play.node)
        play.curtain()


@pytest.mark.parametrize("step", some(UNDO, "stop-k3s"))
def test_dbus_gone_and_back_on_the_way_back(place: Station, step: str) -> None:
    with scene(place, BACK) as play:
        with play.held(f"before undo {step}"):
            away(play.node)
        play.curtain("rolled_back")
