"""A hostile machine: full and read-only disks, no inotify, clocks that jump, an API server that hangs, an agent that
hangs, two agents. A share of the steps here, all of them by ``make crash``.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crash.matrix import Station
from tests.crash.mounts import SmallDisk, own_mounts
from tests.crash.quick_node import ADDRESS, K3S, QuickNode, quick_node, wait_for
from tests.crash.scenes import BY_NAME, FORWARD, FULL, MIGRATE, UNDO, Scene, scene, some
from tests.dbus.harness import die_with_parent
from tests.standin.networks import own_network

# --- disks -------------------------------------------------------------------------------------------


class DiskNode(QuickNode):
    """Its state directory and k3s's data dir are file systems of their own."""

    def seed(self, configmaps: int = 20) -> None:
        self.state_disk = SmallDisk(self.state, 48)
        self.data_disk = SmallDisk(self.data, 320)
        super().seed(configmaps)

    def close(self) -> None:
        for disk in (self.state_disk, self.data_disk):
            disk.unmount()  # else the directory it is mounted on cannot be removed
        super().close()


@contextlib.contextmanager
def disk_scene(name: str) -> Iterator[tuple[Scene, DiskNode]]:
    with own_network(ADDRESS), own_mounts(), quick_node(make=DiskNode) as node:
        yield Scene(node, BY_NAME[name]), node


def given_up_or_ended(play: Scene) -> bool:
    """It has ended; or the agent said that it cannot go on, and the rescue that it called has ended."""
    log = (play.node.root / "agent.log").read_text()
    if play.operation is not None and play.record()["phase"] == "finished":
        return True
    called = "starting the rescue" in log
    return "stopped: " in log and (not called or "The rescue has ended" in log or "The rescue ended as" in log)


EVERY_STATE = [(step, how) for how in ("full", "read-only") for step in MIGRATE]
STATES = [("stop-k3s", "read-only"), ("seal-pre-image", "full"), ("start-k3s", "read-only"), ("open-gate", "full")]


@pytest.mark.parametrize(("step", "how"), EVERY_STATE if FULL else STATES)
def test_the_state_directory_takes_no_record(step: str, how: str) -> None:
    """The agent does nothing more, and has the rescue bring the node back, which needs no room there either; when
    there is room again, the record is settled."""
    with disk_scene("migrate forward") as (play, node):
        with play.held(f"before do {step}"):
            node.state_disk.fill() if how == "full" else node.state_disk.read_only(True)
        wait_for(lambda: given_up_or_ended(play), "the agent has given up, and the rescue has ended")
        record = play.record()
        brought_back = record["rescue"] and not record["committed"]
        if brought_back:
            assert node.k3s_state() == "active" and not node.on_etcd(), "the rescue brings k3s back without a record"
            said = "\n".join(node.systemd.messages("k3s-ha-agent-rescue.service"))
            assert "FAILED to record it" in said and "k3s was brought back" in said
        assert record["phase"] != "finished", "a record was written where nothing can be"
        if brought_back and how == "read-only":
            node.stop_agent()  # else it settles the record itself, as on the full disk
            serving = node.systemd.unit(K3S)["main_pid"]
            node.state_disk.read_only(False)
            assert node.fire_rescue(), "a later rescue settles the record"
            assert node.systemd.unit(K3S)["main_pid"] == serving, "a k3s that was brought back already is left alone"
        else:
            node.state_disk.empty() if how == "full" else node.state_disk.read_only(False)
        outcome = play.curtain()
        assert outcome == ("succeeded" if record["committed"] else "rolled_back")


@pytest.mark.parametrize("step", some(MIGRATE[2:8], "start-k3s"))
def test_the_data_disk_is_full(step: str) -> None:
    """k3s cannot convert, and may not even come back before there is room: loud, and then the rescue helps."""
    with disk_scene("migrate forward") as (play, node):
        with play.held(f"before do {step}"):
            node.data_disk.fill()
        outcome = play.ended()
        if outcome == "rollback_failed":
            play.loud()
            assert not node.fire_rescue(), "there is no room yet"
            node.data_disk.empty()
            play.rescued()
        else:
            node.data_disk.empty()
            # Once k3s has converted, it and the proof may need no more room.
            converted = step in MIGRATE[MIGRATE.index("prove") :]
            play.curtain("rolled_back", *(["succeeded"] if converted else []))


@pytest.mark.parametrize("step", some(UNDO, "seal-pre-image"))
def test_the_data_disk_is_full_on_the_way_back(step: str) -> None:
    """Nothing is moved before the copy of the pre-image is there: a full disk leaves everything in its place."""
    with disk_scene("migrate back") as (play, node):
        with play.held(f"before undo {step}"):
            before = sorted(p.name for p in node.db.iterdir())
            node.data_disk.fill()
        outcome = play.ended()
        if outcome == "rollback_failed":
            play.loud()
            if step == "seal-pre-image":
                names = sorted(p.name for p in node.db.iterdir() if not p.name.startswith("."))
                assert names == before, "things were moved although the pre-image could not be copied"
            node.data_disk.empty()
            play.rescued()
        else:
            node.data_disk.empty()
            play.curtain("rolled_back")


# --- what does not answer ---------------------------------------------------------------------------------


def test_without_inotify(place: Station) -> None:
    """Not one watch can be had: files are looked at instead."""
    with scene(place, FORWARD) as play:
        inject = ["-e", "inject=inotify_init,inotify_init1:error=EMFILE", "-e", "trace=inotify_init,inotify_init1"]
        log = play.node.root / "inotify"
        # -D: the agent stays our child; strace ends with it.
        play.node.start_agent(wrap=["strace", "-D", "-f", "--seccomp-bpf", "-q", "-o", str(log), *inject])
        play.operation = play.way.begin(play.node)
        assert play.curtain("succeeded") == "succeeded"
        assert "(INJECTED)" in log.read_text(), "inotify was asked for, and refused"
        assert "changes are noticed by looking" in (play.node.root / "agent.log").read_text()


@pytest.mark.parametrize("fault", ["api_hang", "api_hang_after_ready"])
def test_the_api_server_hangs(fault: str) -> None:
    """Requests are never answered: each has its own limit, and the operation its deadline."""
    settings = {"role_timeout": "4s"}
    with own_network(ADDRESS), quick_node(settings=settings) as node:
        play = Scene(node, FORWARD)
        node.change_faults({fault: True})
        node.start_agent()
        play.operation = node.begin("migrate", {"timeout": "20s"})
        wait_for(lambda: play.record()["phase"] == "undoing", "the way back has begun")
        node.change_faults({})
        play.curtain("rolled_back")


@pytest.mark.parametrize("way", ["migrate forward", "rollback forward"])
def test_a_hung_agent_is_overtaken_by_the_rescue(place: Station, way: str) -> None:
    """Stopped in the window (as by a debugger, or a dead disk) past the deadline: the rescue kills it and goes back."""
    with scene(place, BY_NAME[way]) as play:
        with play.held("before do start-k3s"):
            assert play.node.agent is not None
            play.node.agent.send_signal(signal.SIGSTOP)
        assert play.node.fire_rescue()
        assert play.node.agent.wait(30) == -signal.SIGKILL
        said = "\n".join(play.node.systemd.messages("k3s-ha-agent-rescue.service"))
        assert "holds the lock past the deadline; killing it" in said
        play.node.start_agent()
        play.curtain("rolled_back")


# --- clocks -----------------------------------------------------------------------------------------------

FAKETIME = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1"


@pytest.mark.parametrize("jump", ["+5h", "-5h"])
def test_the_wall_clock_jumps(place: Station, jump: str, tmp_path: Path) -> None:
    """Hours, in the middle of the window: no deadline passes for it, and none is put off."""
    with scene(place, FORWARD) as play:
        clock = tmp_path / "clock"
        clock.write_text("+0")
        wrap = [
            *("env", f"LD_PRELOAD={FAKETIME}", f"FAKETIME_TIMESTAMP_FILE={clock}", "FAKETIME_NO_CACHE=1"),
            *("FAKETIME_DONT_FAKE_MONOTONIC=1", "FAKETIME_DONT_RESET=1"),
        ]
        play.node.trace.with_suffix(".go").unlink(missing_ok=True)
        play.node.start_agent("pause before do seal-pre-image", wrap=wrap)
        play.operation = play.way.begin(play.node)
        wait_for(lambda: "seal-pre-image PAUSED" in play.node.trace_text(), "the agent waits")
        began = play.record()["steps"][0]["started_at"]
        clock.write_text(jump)
        play.node.trace.with_suffix(".go").touch()
        assert play.curtain("succeeded") == "succeeded"
        sealed = next(s for s in play.record()["steps"] if s["name"] == "seal-pre-image")["finished_at"]
        assert (sealed > began) == (jump == "+5h"), "the clock did not jump"
        assert sealed[:13] != began[:13], "the clock did not jump"


# The namespace is that of children alone; the signal that stops the agent has to be handed on.
IN_THE_BACKGROUND = 'setpriv --pdeathsig KILL "$@" & trap "kill -TERM $!" TERM; wait $!; wait $!'


def test_a_suspended_machine_is_past_the_deadline(place: Station) -> None:
    """CLOCK_BOOTTIME goes on while a machine sleeps: the agent that wakes up after it goes back."""
    with scene(place, FORWARD) as play:
        play.node.start_agent("before do enable-etcd")
        play.way.begin(play.node)
        play.operation = play.node.records()[-1]["id"]
        wait_for(lambda: not play.node.agent_lives(), "the agent's death")
        # A time namespace has another offset of the clock; time(7), time_namespaces(7).
        play.node.start_agent(wrap=["unshare", "--time", "--boottime", "36000", "sh", "-c", IN_THE_BACKGROUND, "sh"])
        assert play.ended() == "rolled_back"
        assert "is past its deadline" in play.record()["reason"]
        play.curtain("rolled_back")


# --- two agents -------------------------------------------------------------------------------------------


def second_agent(node: QuickNode, config: Path) -> subprocess.Popen[bytes]:
    path = f"{node.root}/bin:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    command = [str(node.root / "bin/in-boot"), "/usr/bin/python3", "-m", "k3s_ha_agent", "--config", str(config)]
    with (node.root / "second.log").open("wb") as log:
        return subprocess.Popen(command, cwd="/", env=environment, stdout=log, stderr=log, preexec_fn=die_with_parent)


def test_a_second_agent_does_not_act(place: Station) -> None:
    """Not on the same socket; and with a socket of its own not on the same state, which the lock guards."""
    with scene(place, FORWARD) as play:
        node = play.node
        own = node.root / "second.yaml"
        (node.root / "run2").mkdir(exist_ok=True)
        own.write_text(node.config.read_text().replace(f"{node.root}/run", f"{node.root}/run2"))
        with play.held("before do prove"):
            wait_for(lambda: play.record()["phase"] == "doing", "the first agent is at work")
            same = second_agent(node, node.config)
            try:
                other = second_agent(node, own)
                socket = node.root / "run2/api.sock"
                wait_for(lambda: socket.exists() or other.poll() is not None, "the second agent answers")
                record = play.record()
                assert other.poll() is None, (node.root / "second.log").read_text()
            finally:
                same.send_signal(signal.SIGTERM)
                assert same.wait(60) != -signal.SIGKILL
            assert play.record() == record, "somebody else has touched the record"
        try:
            assert play.ended() == "succeeded"
        finally:
            other.send_signal(signal.SIGTERM)
            other.wait(60)
        assert play.curtain("succeeded") == "succeeded"
        begun = node.trace_text().count("before do prove")
        assert begun == 1
