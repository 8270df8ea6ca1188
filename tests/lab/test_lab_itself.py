"""The lab's own tests: it boots, it keeps files, it leaves nothing behind."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.lab import clean, system
from tests.lab.lab import CHECKOUT, Lab
from tests.lab.node import Node
from tests.lab.system import LabError

NewNode = Callable[[str], Node]
OtherRun = tuple[subprocess.Popen[str], clean.Stamp, int]


@pytest.fixture
def node(new_node: NewNode) -> Node:
    """A booted node on which k3s and the agent do not run."""
    node = new_node("n1")
    bare(node)
    node.boot()
    return node


def bare(node: Node) -> None:
    for unit in ("k3s", "k3s-ha-agent"):
        node.remove(f"/etc/systemd/system/multi-user.target.wants/{unit}.service")


def test_two_nodes_boot_and_reach_each_other(new_node: NewNode) -> None:
    first, second = new_node("n1"), new_node("n2")
    for node in (first, second):
        bare(node)
        node.boot()
        assert node.exec(["hostname"]).stdout == f"{node.name}\n"
    assert first.address != second.address
    first.exec(["ping", "-c", "1", "-W", "10", second.address])
    second.exec(["ping", "-c", "1", "-W", "10", first.address])
    first.spawn(["python3", "-m", "http.server", "--directory", "/etc", "8080"])
    outside = ["curl", "--silent", "--max-time", "5", f"http://{first.address}:8080/hostname"]
    first.wait_for(lambda: first.lab.outside(outside, check=False).stdout == "n1\n", what="it answers from outside")
    first.lab.cut(second)
    assert first.exec(["ping", "-c", "1", "-W", "2", second.address], check=False).returncode != 0
    first.lab.mend(second)
    first.wait_for(lambda: first.exec(["ping", "-c", "1", "-W", "2", second.address], check=False).returncode == 0)


def test_a_program_on_our_terminal_sees_its_size(node: Node) -> None:
    child, master = pty.fork()
    if child == 0:
        code = 99
        try:
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 20, 73, 0, 0))
            code = node.interact(["sh", "-c", 'test -t 1 && stty size && echo "$COLUMNS."'])
        finally:
            os._exit(code)
    said = b""
    with contextlib.suppress(OSError):  # EIO: the other side of the terminal is closed
        while data := os.read(master, 4096):
            said += data
    os.close(master)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, said
    assert said.split() == [b"20", b"73", b"."]


def test_the_node_is_a_whole_system(node: Node) -> None:
    assert node.exec(["ps", "-o", "comm=", "-p", "1"]).stdout.strip() == "systemd"
    node.wait_for(lambda: node.systemctl("is-system-running", check=False).strip() == "running")
    assert node.systemctl("list-units", "--failed", "--no-legend").strip() == ""
    assert "org.freedesktop.systemd1" in node.exec(["busctl", "list", "--no-pager"]).stdout
    done = node.exec(["systemd-run", "--wait", "--pipe", "--quiet", "--unit=lab-probe", "echo", "a line of the probe"])
    assert done.stdout == "a line of the probe\n"
    node.exec(["systemd-run", "--wait", "--quiet", "--unit=lab-said", "echo", "a line for the journal"])
    assert node.messages("lab-said.service").count("a line for the journal") == 1
    # Debian's etcd is there as a program only.
    assert node.show("etcd.service", "LoadState")["LoadState"] == "masked"


def test_a_program_runs_inside_with_its_input_and_exit_code(node: Node) -> None:
    assert node.exec(["cat"], input="zwölf\n").stdout == "zwölf\n"
    assert node.exec(["sh", "-c", "exit 7"], check=False).returncode == 7
    with pytest.raises(LabError, match="went wrong"):
        node.exec(["sh", "-c", "echo went wrong >&2; exit 1"])
    assert node.exec(["pwd"]).stdout == "/\n"
    cgroup = node.exec(["cat", "/proc/self/cgroup"]).stdout
    assert "/init.scope" in cgroup and "name=systemd:/.." not in cgroup
    host = os.readlink("/proc/self/ns/pid")
    assert node.exec(["readlink", "/proc/self/ns/pid"]).stdout.strip() != host


def test_a_program_that_does_not_end_is_killed(node: Node) -> None:
    with pytest.raises(LabError, match="did not end"):
        node.exec(["sleep", "4242"], timeout=1)
    node.wait_for(lambda: "4242" not in node.exec(["ps", "-eo", "args="]).stdout, what="the sleep is gone")


def test_a_hard_reboot_keeps_files_and_ends_everything(node: Node) -> None:
    boot = node.read("/proc/sys/kernel/random/boot_id")
    node.write("/etc/lab-file", "on the overlay\n")
    node.write("/var/lib/rancher/lab-file", "on the disk\n")
    node.exec(["sh", "-c", "echo from inside >/var/lib/k3s-ha-agent/lab-file"])
    node.exec(["systemd-run", "--quiet", "--unit=lab-sleeper", "sleep", "7777"])
    child = node.spawn(["sleep", "8888"])
    node.write("/run/lab-file", "in memory\n")
    node.kill()
    assert clean.lab_processes(node.lab.id) == []
    node.boot()
    assert node.read("/etc/lab-file") == "on the overlay\n"
    assert node.exec(["cat", "/var/lib/rancher/lab-file"]).stdout == "on the disk\n"
    assert node.read("/var/lib/k3s-ha-agent/lab-file") == "from inside\n"
    assert not node.exists("/run/lab-file")
    assert node.read("/proc/sys/kernel/random/boot_id") != boot
    assert child.poll() is not None
    arguments = [system.command_line(pid) for pid in system.processes()]
    assert ["sleep", "7777"] not in arguments and ["sleep", "8888"] not in arguments
    assert "lab-sleeper" in node.journal(), "the journal of the boot before is gone"


def test_powering_off_and_on_again(node: Node) -> None:
    node.write("/etc/lab-file", "kept\n")
    node.power_off()
    assert not node.running
    with pytest.raises(LabError, match="not running"):
        node.exec(["true"])
    node.boot()
    assert node.exec(["cat", "/etc/lab-file"]).stdout == "kept\n"
    assert "Reached target" in node.console()


def test_a_renewed_node_remembers_nothing(node: Node) -> None:
    for path in ("/etc/lab-file", "/var/lib/rancher/lab-file", "/var/lib/k3s-ha-agent/lab-file"):
        node.write(path, "old\n")
    node.renew()
    bare(node)
    node.boot()
    for path in ("/etc/lab-file", "/var/lib/rancher/lab-file", "/var/lib/k3s-ha-agent/lab-file"):
        assert not node.exists(path)


def test_a_name_is_free_again_at_once(lab: Lab) -> None:
    node = lab.node("n1")
    network = f"--net={system.namespace_path(clean.namespace(lab.id, 'n1'))}"
    # The kernel takes a namespace down some time after its last user is gone; this one keeps it for longer.
    with subprocess.Popen(["nsenter", network, "sleep", "600"]) as user:
        node.wait_for(lambda: user.pid in system.in_namespaces([clean.namespace(lab.id, "n1")]))
        try:
            node.destroy()
            lab.node("n1").destroy()
        finally:
            user.kill()


def test_a_node_that_cannot_be_made_is_not_in_the_way(lab: Lab) -> None:
    system.ip(clean.namespace(lab.id), "link", "add", "n1", "type", "bridge")
    with pytest.raises(LabError, match="exists"):
        lab.node("n1")
    # What was in the way went with the attempt.
    assert "n1" not in lab.nodes and not (lab.directory / "n1").exists()
    lab.node("n1").destroy()


def test_the_data_directories_are_on_the_disk(node: Node) -> None:
    for directory in ("/var/lib/rancher", "/var/lib/k3s-ha-agent"):
        kind = node.exec(["findmnt", "--noheadings", "--output=FSTYPE", "--target", directory]).stdout.strip()
        assert kind not in ("overlay", "tmpfs")


def test_comparing_trees_sees_every_change(node: Node) -> None:
    node.write("/etc/lab/a", "a\n")
    before = node.tree("/etc/lab")
    assert node.tree("/etc/lab") == before
    node.exec(["chmod", "600", "/etc/lab/a"])
    assert node.tree("/etc/lab").keys() == before.keys() and node.tree("/etc/lab") != before
    node.exec(["touch", "/etc/lab/b"])
    assert "/etc/lab/b" in node.tree("/etc/lab")
    assert "/etc/lab/b" not in node.tree("/etc/lab", exclude=["*/b"])


def test_two_labs_at_once_and_nothing_is_left(lab: Lab) -> None:
    other = Lab()
    node = other.node("n1")
    bare(node)
    node.boot()
    mine = lab.node("n1")
    bare(mine)
    mine.boot()
    assert node.exec(["hostname"]).stdout == mine.exec(["hostname"]).stdout == "n1\n"
    assert node.address == mine.address
    assert len(other.leftovers()) > 5, "the lab does not see what it made"
    other.close()
    assert other.leftovers() == []
    assert not other.directory.exists() and not (clean.stamps_directory() / other.id).exists()
    assert other.id not in Path("/proc/self/mountinfo").read_text()
    assert mine.exec(["true"]).returncode == 0, "the other lab was taken down with it"
    mine.destroy()


_RUN = """\
import sys, time
from tests.lab.lab import Lab
lab = Lab()
for name in ("n1", "n2"):
    node = lab.node(name)
    node.boot()
print(lab.id, lab._keeper.pid, flush=True)
time.sleep(600)
"""


@pytest.fixture
def other_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[OtherRun]:
    """A lab of another process, with two booted nodes; its stamp and its keeper's pid. Nobody else knows of it."""
    monkeypatch.setenv("K3S_HA_AGENT_LAB_STAMPS", str(tmp_path))
    child = subprocess.Popen([sys.executable, "-c", _RUN], cwd=CHECKOUT, stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        words = child.stdout.readline().split()
        assert len(words) == 2, "the other run made no lab"
        yield child, next(stamp for stamp in clean.stamps() if stamp.id == words[0]), int(words[1])
    finally:
        child.kill()
        child.communicate()
        clean.sweep()


def test_a_killed_run_leaves_nothing(other_run: OtherRun) -> None:
    child, stamp, _ = other_run
    assert len(clean.lab_processes(stamp.id)) > 4
    child.kill()
    wait_until_gone(stamp)


def test_a_terminated_run_leaves_nothing(other_run: OtherRun) -> None:
    child, stamp, _ = other_run
    child.terminate()
    wait_until_gone(stamp)


def test_cleaning_up_after_a_run_killed_with_its_keeper(other_run: OtherRun) -> None:
    child, stamp, keeper = other_run
    os.kill(keeper, signal.SIGKILL)
    assert not stamp.over()
    clean.sweep()
    assert clean.leftovers(stamp), "the lab of a living run was taken down"
    child.kill()
    child.wait()
    assert clean.leftovers(stamp)
    clean.main([])
    assert clean.leftovers(stamp) == [] and not stamp.path.exists()


def wait_until_gone(stamp: clean.Stamp) -> None:
    deadline = time.monotonic() + 60
    while left := [*clean.leftovers(stamp), *stamp.path.parent.glob(stamp.id)]:
        assert time.monotonic() < deadline, left
        time.sleep(0.1)
