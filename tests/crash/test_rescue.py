"""The rescue is really the last resort: in a half-upgraded package, without third-party modules, without D-Bus, run
twice, beside an agent that wakes up, before a lock and a record that cannot be believed.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.crash import installed
from tests.crash.cut_off import CUTS, IN_THE_COPY, Cut, Found, cut_off
from tests.crash.look import rest_is_quiet
from tests.crash.matrix import Station, station
from tests.crash.quick_node import QuickNode, wait_for
from tests.crash.tree import changes, tree

PATIENT = 60.0
"""Seconds the rescue leaves an agent that is at work."""
COPYING = Cut("migrate forward", IN_THE_COPY)
ENABLED = Cut("migrate forward", "after do enable-etcd")
GATED = Cut("migrate forward", "before do stop-k3s")


@pytest.fixture(scope="module")
def place() -> Iterator[Station]:
    with station() as mine:
        yield mine


@pytest.mark.parametrize("cut", CUTS, ids=str)
def test_with_nothing_but_itself(place: Station, cut: Cut) -> None:
    """The unit's own command brings the node back; the same again, and an agent after it, do nothing."""
    with cut_off(place, cut) as found:
        node = found.node
        if not (node.root / "installed").exists():
            installed.install(node)
        node.bus.stop()

        done = installed.run(node)

        assert done.returncode == 0, done.stdout + done.stderr
        assert "bringing k3s.service back" in done.stdout and not done.stderr
        found.is_back()
        assert found.outcome() == ("rolled_back", "rescue")

        before = tree(node)
        again = installed.run(node)
        assert again.returncode == 0 and "bringing" not in again.stdout, again.stdout + again.stderr
        assert not changes(before, tree(node))

        node.bus.start()
        wait_for(lambda: node.systemd.control("state")["connected"], "systemd is on the bus again")
        rest_is_quiet(node)


# --- beside an agent that wakes up -------------------------------------------------------------------


class Rescue:
    """A rescue that runs beside the test."""

    def __init__(self, node: QuickNode, grace: float) -> None:
        command = [
            node.root / "bin/in-boot",
            sys.executable,
            "-I",
            "-S",
            installed.REPOSITORY / "k3s_ha_agent/rescue.py",
        ]
        self._child = subprocess.Popen(
            [*command, node.state, str(grace)],
            env={"PATH": f"{node.root}/bin:/usr/bin:/bin"}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def runs(self) -> bool:
        return self._child.poll() is None

    def end(self) -> tuple[int, str]:
        said, _ = self._child.communicate(timeout=300)
        return self._child.returncode, said


@contextlib.contextmanager
def rescue_beside(node: QuickNode, grace: float) -> Iterator[Rescue]:
    rescue = Rescue(node, grace)
    try:
        yield rescue
    finally:
        if rescue.runs():
            rescue._child.kill()
            rescue.end()


def owner(node: QuickNode) -> dict[str, Any]:
    """The stamp in the lock; {} when there is none, or not all of it."""
    with contextlib.suppress(ValueError, FileNotFoundError):
        return dict(json.loads((node.state / "lock").read_text()))
    return {}


def settled(found: Found) -> None:
    wait_for(
        lambda: found.outcome()[0] is not None and found.node.record(found.operation)["phase"] == "finished", "end"
    )


def test_the_rescue_waits_for_an_agent_that_is_at_work(place: Station) -> None:
    with cut_off(place, GATED, put_delay=0.01) as found:
        node = found.node
        node.start_agent()
        wait_for(
            lambda: owner(node).get("who") == "agent" and not (node.db / "state.db-shm").exists(), "k3s is stopped"
        )
        with rescue_beside(node, PATIENT) as rescue:
            settled(found)
            status, said = rescue.end()
        assert (status, found.outcome()) == (0, ("succeeded", "agent")), said
        assert "bringing" not in said and "opening" not in said, said
        wait_for(lambda: not node.gate.exists(), "tidied up")
        found.ended_as("succeeded")


def test_the_agent_waits_for_a_rescue_that_is_at_work(place: Station) -> None:
    with cut_off(place, COPYING, stop_delay=3) as found:
        node = found.node
        passed = node.trace_text()
        with rescue_beside(node, PATIENT) as rescue:
            wait_for(lambda: owner(node).get("who") == "rescue", "the rescue has the lock")
            node.start_agent()
            assert rescue.runs() and node.agent_lives(), "they did not meet"
            status, said = rescue.end()
        assert status == 0, said
        assert node.agent_lives()
        status, answer = node.api("GET", f"/v1/operations/{found.operation}/wait?timeout=60s")
        assert (status, answer["outcome"], answer["finished_by"]) == (200, "rolled_back", "rescue")
        node.stop_agent()
        assert node.trace_text() == passed, "the agent did something too"
        found.is_back()
        rest_is_quiet(node)


@pytest.mark.parametrize("cut", [GATED, COPYING, Cut("rollback forward", "after do retire-etcd")], ids=str)
def test_both_at_once_and_only_one_acts(place: Station, cut: Cut) -> None:
    with cut_off(place, cut) as found:
        node = found.node
        passed = node.trace_text()
        node.start_agent(wait=False)
        if cut != COPYING:  # so that the agent is the first here, and the rescue there
            wait_for(lambda: owner(node).get("pid") == node.agent.pid, "the agent has the lock")  # type: ignore[union-attr]
        with rescue_beside(node, PATIENT) as rescue:
            status, said = rescue.end()
        settled(found)
        node.stop_agent()
        acted = {"rescue"} if "bringing" in said else set()
        acted |= {"agent"} if node.trace_text() != passed else set()
        assert status == 0 and acted == {found.outcome()[1]}, (acted, said)
        found.ended_as(str(found.outcome()[0]))
        rest_is_quiet(node)


def test_an_agent_that_hangs_is_killed_and_nobody_else(place: Station) -> None:
    with cut_off(place, GATED, put_delay=0.01) as found, bystander() as other:
        node = found.node
        node.start_agent()
        agent = node.agent
        assert agent is not None
        wait_for(lambda: owner(node).get("pid") == agent.pid and not (node.db / "state.db").exists(), "copied")
        agent.send_signal(signal.SIGSTOP)
        with rescue_beside(node, 1) as rescue:
            status, said = rescue.end()
        assert status == 0 and f"agent {agent.pid} holds the lock" in said, said
        assert agent.wait(10) == -signal.SIGKILL and other.poll() is None
        found.is_back()
        assert found.outcome()[1] == "rescue"


# --- a lock that cannot be believed --------------------------------------------------------------------

HOLD = "import fcntl, sys; f = open(sys.argv[1]); fcntl.flock(f, fcntl.LOCK_EX); print(flush=True); sys.stdin.read()"


@contextlib.contextmanager
def bystander(*command: str) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(command or ["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        try:
            yield child
        finally:
            child.kill()


def stamps(node: QuickNode, pid: int) -> Mapping[str, bytes]:
    started = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    true = {"pid": pid, "start_time": started, "who": "agent", "since": "2026-01-01T00:00:00.000Z"}
    true["boot_id"] = (node.root / "boot_id").read_text().strip()
    return {
        "a number that belongs to another process now": json.dumps({**true, "start_time": started - 1}).encode(),
        "another boot": json.dumps({**true, "boot_id": "5e1bd9b5-4a5c-4b0a-9d58-000000000000"}).encode(),
        "no process": json.dumps({**true, "pid": 2**22 + 1}).encode(),
        "not a number": json.dumps({**true, "pid": None}).encode(),
        "half a stamp": json.dumps(true).encode()[:30],
        "nothing": b"",
    }


@pytest.mark.parametrize("cut", [ENABLED, COPYING], ids=str)
def test_a_stamp_that_is_not_true_costs_nobody_its_life(place: Station, cut: Cut) -> None:
    """Held by nobody knows whom: refused, nothing changed. Held by nobody: taken, whatever the stamp says."""
    with cut_off(place, cut) as found, bystander() as other:
        node, lock = found.node, found.node.state / "lock"
        node.grace = 0.5
        try:
            before = tree(node)
            for what, stamp in stamps(node, other.pid).items():
                lock.write_bytes(stamp)
                with bystander(sys.executable, "-c", HOLD, str(lock)) as holder:
                    assert holder.stdout is not None and holder.stdout.readline()
                    done = node.run_rescue()
                    assert done.returncode == 1 and f"fuser -v {lock}" in done.stdout, (what, done)
                    assert holder.poll() is None and other.poll() is None, what
                assert not changes(before, tree(node)), what
                assert lock.read_bytes() == stamp

            lock.write_bytes(stamps(node, other.pid)["a number that belongs to another process now"])
            done = node.run_rescue()
            assert done.returncode == 0 and other.poll() is None, done
            found.is_back()
        finally:
            node.grace = 3.0


# --- a record that cannot be believed -------------------------------------------------------------------


def damaged(text: bytes) -> Mapping[str, bytes]:
    record = json.loads(text)

    def with_(**changed: object) -> bytes:
        return json.dumps({**record, **changed}).encode()

    def rescue_with(**changed: object) -> bytes:
        return with_(rescue={**record["rescue"], **changed})

    return {
        "cut off": text[: len(text) // 2],
        "empty": b"",
        "zeros": bytes(len(text)),
        "garbage": os.urandom(len(text)),
        "not a record": b"[1, 2]",
        "a string": b'"rescue"',
        "newer": with_(format=2),
        "without its step": with_(steps=[{}]),
        "committed is no answer": with_(committed=None),
        "no rescue": with_(rescue="sqlite"),
        "another goal": rescue_with(goal="external"),
        "no quarantine": rescue_with(quarantine=None),
        "a relative gate": rescue_with(gate="gate.conf"),
        "no unit": with_(rescue={k: v for k, v in record["rescue"].items() if k != "unit"}),
        "sealed with nothing to prove it": rescue_with(sealed="/nowhere", sealed_sha256=None),
    }


@pytest.mark.parametrize("cut", [COPYING, Cut("migrate back", "before undo start-k3s")], ids=str)
def test_a_record_that_cannot_be_read_changes_nothing(place: Station, cut: Cut) -> None:
    with cut_off(place, cut) as found:
        node, path = found.node, found.node.state / f"operations/{found.operation}/record.json"
        text = path.read_bytes()
        for what, instead in damaged(text).items():
            path.write_bytes(instead)
            before = tree(node)
            done = node.run_rescue()
            assert done.returncode == 1, (what, done.stdout)
            assert f"{path} cannot be read" in done.stdout and "record-unreadable" in done.stdout, (what, done.stdout)
            assert not done.stderr, (what, done.stderr)
            assert not changes(before, tree(node)), what
        path.write_bytes(text)
        assert node.run_rescue().returncode == 0
        found.is_back()


def test_the_others_have_their_turn(place: Station) -> None:
    """A record that cannot be read does not keep the rescue from one that can; it says so all the same."""
    with cut_off(place, COPYING) as found:
        unreadable = found.node.state / "operations/00000000t000000-migrate-000000/record.json"
        unreadable.parent.mkdir(mode=0o700)
        unreadable.write_bytes(b"{")
        done = found.node.run_rescue()
        assert done.returncode == 1 and f"{unreadable} cannot be read" in done.stdout
        unreadable.unlink()
        unreadable.parent.rmdir()
        assert found.outcome() == ("rolled_back", "rescue")
        found.node.fire_rescue()  # stops its timer, which the failure left for another try
        found.is_back()


def test_k3s_that_ends_just_before_it_is_killed(place: Station) -> None:
    """systemd's limit for a stop is ours as well: ours passes, and then there is nothing left to kill."""
    with cut_off(place, COPYING) as found:
        node = found.node
        late = node.root / "late"
        late.mkdir(exist_ok=True)
        text = f'#!/bin/sh\n{node.root}/bin/systemctl "$@"; status=$?\n'
        text += f'[ "$1" = stop ] && [ ! -e {late}/once ] && touch {late}/once && exit 1\nexit $status\n'
        (late / "systemctl").write_text(text)
        (late / "systemctl").chmod(0o755)
        done = node.run_rescue(path=f"{late}:/usr/bin:/bin")
        assert done.returncode == 0 and "killing it" in done.stdout, done
        found.is_back()


@pytest.mark.parametrize("who", ["rescue", "agent"])
def test_remains_of_an_etcd_that_never_was(place: Station, who: str) -> None:
    """k3s killed between making db/etcd/member and its wal: moved aside, or the next migrate would be refused."""
    with cut_off(place, ENABLED) as found:
        node = found.node
        for name in ("etcd/member/snap", "etcd/member/wal.tmp", "tmp-etcd"):
            (node.db / name).mkdir(parents=True)
        if who == "rescue":
            assert node.run_rescue().returncode == 0
            node.start_agent()
        else:
            node.power_fails()
            node.power_returns()
            settled(found)
        assert found.outcome() == ("rolled_back", who)
        _, answer = node.api("GET", "/v1/preflight?for=migrate")
        assert answer["ok"], [check for check in answer["checks"] if check["status"] == "refused"]
        node.stop_agent()
        found.is_back()


def test_what_is_committed_stays_so_when_the_gate_cannot_be_opened(place: Station) -> None:
    with cut_off(place, Cut("migrate forward", "before do open-gate")) as found:
        node = found.node
        broken = node.root / "broken"
        broken.mkdir(exist_ok=True)
        (broken / "systemctl").write_text("#!/bin/sh\necho no manager >&2; exit 1\n")
        (broken / "systemctl").chmod(0o755)
        text = (node.state / f"operations/{found.operation}/record.json").read_bytes()
        done = node.run_rescue(path=f"{broken}:/usr/bin:/bin")
        assert done.returncode == 1 and "no manager" in done.stdout, done
        assert (node.state / f"operations/{found.operation}/record.json").read_bytes() == text
        node.start_agent()
        settled(found)
        wait_for(lambda: {s["status"] for s in node.record(found.operation)["steps"]} == {"done"}, "tidied up")
        node.stop_agent()
        found.ended_as("succeeded")
