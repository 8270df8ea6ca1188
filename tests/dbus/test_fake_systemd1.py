"""The stand-in for systemd behaves as a real systemd 252 did, and leaves nothing behind."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from k3s_ha_agent.host.units import Units
from tests.dbus import behaviour
from tests.dbus.harness import HERE, FakeSystemd, PrivateBus, alive, wait_until

LONG = 60.0
RECORDED = json.loads((HERE / "systemd-252.json").read_text())


async def test_behaves_as_the_real_one_was_recorded(systemd: FakeSystemd, units: Units, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    seen = json.loads(json.dumps(await behaviour.observe(units, systemd.units, scratch)))
    assert seen == RECORDED


def test_signals_come_only_to_those_who_asked(systemd: FakeSystemd, bus: PrivateBus) -> None:
    systemd.write_unit("s.service", "[Service]\nExecStart=/bin/sleep 1000\n")
    script = (
        "import sys, pydbus; from gi.repository import GLib\n"
        "bus = pydbus.connect(sys.argv[1]); loop = GLib.MainLoop()\n"
        "manager = bus.get('.systemd1')['org.freedesktop.systemd1.Manager']\n"
        "if sys.argv[2] == 'subscribe': manager.Subscribe()\n"
        "manager.onJobRemoved = lambda *args: (print('JobRemoved', args[3]), loop.quit())\n"
        "manager.StartUnit('s.service', 'replace')\n"
        "GLib.timeout_add(1000, loop.quit)\n"
        "loop.run()\n"
    )
    for mode, expected in (("no", ""), ("subscribe", "JobRemoved done\n")):
        run = subprocess.run([sys.executable, "-c", script, bus.address, mode], stdout=subprocess.PIPE, timeout=LONG)
        assert run.stdout.decode() == expected
        systemd.control("state")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_takes_everything_with_it(tmp_path: Path, bus: PrivateBus, number: int) -> None:
    """Also when it is killed: by then at least the services themselves are gone."""
    with FakeSystemd(tmp_path, bus) as systemd:
        systemd.write_unit(
            "s.service",
            "[Service]\nKillMode=process\n"
            "ExecStart=/bin/sh -c 'setsid sleep 1000 & echo $! $$$$ >pids.t; mv pids.t pids; wait'\n"
            f"WorkingDirectory={tmp_path}\n",
        )
        client = ["busctl", f"--address={bus.address}", "call", "org.freedesktop.systemd1", "/org/freedesktop/systemd1"]
        start = [*client, "org.freedesktop.systemd1.Manager", "StartUnit", "ss", "s.service", "replace"]
        subprocess.run(start, check=True, stdout=subprocess.DEVNULL, timeout=LONG)
        wait_until((tmp_path / "pids").exists, "the service")
        child, main = map(int, (tmp_path / "pids").read_text().split())
        assert sorted(systemd.control("processes", unit="s.service")["processes"]) == sorted([child, main])
        assert systemd.child is not None
        systemd.child.send_signal(number)
        systemd.child.wait(LONG)
        wait_until(lambda: not alive(main), "main process gone")
        if number == signal.SIGTERM:
            assert not alive(child)
    wait_until(lambda: not alive(child), "its child gone")


def test_boot_starts_what_is_enabled_in_order(tmp_path: Path, bus: PrivateBus) -> None:
    trace = tmp_path / "trace"
    systemd = FakeSystemd(tmp_path, bus, boot=True)
    ready = (
        "[Service]\nType=notify\nNotifyAccess=all\n"
        f"ExecStart=/bin/sh -c 'sleep 0.3; echo %N >>{trace}; systemd-notify --ready; exec sleep 1000'\n"
    )
    systemd.write_unit("k3s.service", ready)
    systemd.write_unit("agent.service", "[Unit]\nBefore=k3s.service\n" + ready)
    systemd.write_unit("off.service", ready)
    wants = systemd.units / "multi-user.target.wants"
    wants.mkdir()
    for name in ("k3s.service", "agent.service"):
        (wants / name).symlink_to(systemd.units / name)
    with systemd:
        wait_until(lambda: systemd.unit("k3s.service").get("active_state") == "active", "k3s started")
        assert trace.read_text().split() == ["agent", "k3s"]
        assert systemd.unit("off.service") == {}


def test_bug_in_it_ends_it(tmp_path: Path, bus: PrivateBus) -> None:
    with FakeSystemd(tmp_path, bus) as systemd:
        systemd.write_unit("bad.service", "[Service]\nExecStart=/bin/true\nTimeoutStartSec=soon\n")
        client = ["busctl", f"--address={bus.address}", "call", "org.freedesktop.systemd1", "/org/freedesktop/systemd1"]
        start = [*client, "org.freedesktop.systemd1.Manager", "StartUnit", "ss", "bad.service", "replace"]
        subprocess.run(start, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=LONG)
        assert systemd.child is not None and systemd.child.wait(LONG) == 70
