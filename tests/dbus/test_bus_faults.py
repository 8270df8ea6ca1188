"""The way to systemd is disturbed: calls that hang, a bus that goes away, things that pile up."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from k3s_ha_agent.errors import SystemdError
from k3s_ha_agent.host.units import Units
from tests.dbus.harness import FakeSystemd, PrivateBus, descriptors, until, wait_until

LONG = 60.0
SLEEP = "[Unit]\nStartLimitIntervalSec=0\n[Service]\nExecStart=/bin/sleep 1000\n"


@pytest.mark.parametrize("kind", ["hang", "lose-answer"])
async def test_hung_call_has_an_end(systemd: FakeSystemd, bus: PrivateBus, kind: str) -> None:
    systemd.write_unit("s.service", SLEEP)
    async with Units(bus.address, call_timeout=0.5) as units:
        await units.state("s.service")
        systemd.control(kind, method="StartUnit")
        with pytest.raises(SystemdError, match="systemd did not answer within") as caught:
            await units.start_unit("s.service")
        assert caught.value.extensions["dbus_error"] == "org.freedesktop.DBus.Error.NoReply"
        # What became of it is told by the state, not by the answer.
        await until(units, "s.service", lambda state: state.active == (kind == "lose-answer") and state.job == 0)
        assert await (await units.start_unit("s.service")).wait(LONG) == "done"


async def test_call_given_up_before_it_was_made_is_never_made(systemd: FakeSystemd, bus: PrivateBus) -> None:
    systemd.write_unit("s.service", SLEEP)
    async with Units(bus.address, call_timeout=2) as units:
        await units.state("s.service")
        systemd.control("hang", method="LoadUnit")
        hung = asyncio.create_task(units.state("s.service"))
        await asyncio.sleep(0.1)
        start = asyncio.create_task(units.start_unit("s.service"))
        await asyncio.sleep(0.1)
        start.cancel()
        with pytest.raises(SystemdError, match="did not answer"):
            await hung
        await units.state("s.service")
        assert systemd.unit("s.service")["active_state"] == "inactive"
        assert not systemd.messages("s.service")


async def test_hung_bus_has_an_end(systemd: FakeSystemd, bus: PrivateBus) -> None:
    systemd.write_unit("s.service", SLEEP)
    async with Units(bus.address, call_timeout=0.5) as units:
        await units.state("s.service")
        assert bus.child is not None
        bus.child.send_signal(signal.SIGSTOP)
        try:
            with pytest.raises(SystemdError, match="did not answer"):
                await units.state("s.service")
        finally:
            bus.child.send_signal(signal.SIGCONT)
        async with asyncio.timeout(LONG):
            while True:
                try:
                    await units.state("s.service")
                    break
                except SystemdError:
                    await asyncio.sleep(0.05)


async def test_bus_gone_and_back(systemd: FakeSystemd, bus: PrivateBus, units: Units) -> None:
    systemd.write_unit(
        "slow.service",
        "[Service]\nType=oneshot\nExecStart=/bin/sh -c 'while [ ! -e go ]; do sleep 0.05; done'\n"
        f"WorkingDirectory={systemd.units}\n",
    )
    job = await units.start_unit("slow.service")
    waiting = asyncio.create_task(job.wait(LONG, look_every=0.1))
    await until(units, "slow.service", lambda state: state.sub_state == "start")
    bus.stop()
    with pytest.raises(SystemdError, match=r"Cannot read the state of slow\.service: D-Bus says"):
        await units.state("slow.service")
    (systemd.units / "go").touch()
    wait_until(lambda: systemd.unit("slow.service")["active_state"] == "inactive", "job ended while the bus was away")
    assert not waiting.done()
    bus.start()
    wait_until(lambda: systemd.control("state")["connected"], "fake systemd back")
    assert await waiting == "done"
    systemd.write_unit("s.service", SLEEP)
    assert await (await units.start_unit("s.service")).wait(LONG, look_every=1000) == "done", "signals come again"


async def test_systemd_gone_from_the_bus_and_back(systemd: FakeSystemd, units: Units) -> None:
    """As when it is executed again: the bus stays, the subscription is forgotten."""
    systemd.write_unit("s.service", SLEEP)
    assert await (await units.start_unit("s.service")).wait(LONG) == "done"
    systemd.control("leave-bus")
    with pytest.raises(SystemdError, match=r"Cannot stop s\.service"):
        await units.stop_unit("s.service")
    systemd.control("join-bus")
    wait_until(lambda: systemd.control("state")["connected"], "fake systemd back")
    assert systemd.control("state")["subscribers"] == []
    assert await (await units.stop_unit("s.service")).wait(LONG, look_every=1000) == "done", "subscribed again"


async def test_no_bus_at_all(tmp_path: Path) -> None:
    async with Units(f"unix:path={tmp_path}/none") as units:
        with pytest.raises(SystemdError, match="D-Bus says"):
            await units.state("s.service")
    with pytest.raises(SystemdError, match="closed"):
        await units.state("s.service")


async def test_nothing_piles_up(systemd: FakeSystemd, units: Units) -> None:
    """pydbus keeps what it made until told otherwise: no descriptor, match rule or proxy per call."""
    systemd.write_unit("s.service", SLEEP)

    async def round_trip() -> None:
        for act in (units.start_unit, units.stop_unit):
            assert await (await act("s.service")).wait(LONG) == "done"
        await units.state("s.service")

    await round_trip()
    gc.collect()
    before = (descriptors(), len(gc.get_objects()))
    for _ in range(30):
        await round_trip()
    gc.collect()
    assert descriptors() <= before[0] + 1
    assert len(gc.get_objects()) <= before[1] + 200


async def test_loop_is_not_blocked_meanwhile(systemd: FakeSystemd, bus: PrivateBus) -> None:
    async with Units(bus.address, call_timeout=1) as units:
        systemd.control("hang", method="LoadUnit", count=-1)
        hung = asyncio.create_task(units.state("s.service"))
        ticks = 0
        while not hung.done():
            await asyncio.sleep(0.01)
            ticks += 1
        assert ticks > 10
        with pytest.raises(SystemdError):
            await hung


def test_process_survives_the_end_of_the_bus(bus: PrivateBus) -> None:
    """Gio's exit-on-close would end the process by SIGTERM; it must be off on our connection."""
    script = (
        "import asyncio, sys\n"
        "from k3s_ha_agent.errors import SystemdError\n"
        "from k3s_ha_agent.host.units import Units\n"
        "async def main():\n"
        "    async with Units() as units:\n"
        "        for _ in range(2):\n"
        "            try:\n"
        "                await units.state('s.service')\n"
        "            except SystemdError as error:\n"
        "                print('error', error.detail, flush=True)\n"
        "            sys.stdin.readline()\n"
        "asyncio.run(main())\n"
        "print('survived', flush=True)\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "DBUS_SYSTEM_BUS_ADDRESS": bus.address},
    )
    try:
        assert child.stdin is not None and child.stdout is not None
        assert "error" in child.stdout.readline()
        bus.stop()
        child.stdin.write("\n")
        child.stdin.flush()
        assert "error" in child.stdout.readline()
        out, _ = child.communicate("\n", timeout=LONG)
        assert "survived" in out and child.returncode == 0
    finally:
        child.kill()
        child.wait()


FLOOD = """
import sys, time
from gi.repository import Gio
flags = Gio.DBusConnectionFlags.AUTHENTICATION_CLIENT | Gio.DBusConnectionFlags.MESSAGE_BUS_CONNECTION
connection = Gio.DBusConnection.new_for_address_sync(sys.argv[1], flags, None, None)
while True:
    for _ in range(10):
        connection.emit_signal(sys.argv[2], "/x", "a.b", "C", None)
    connection.flush_sync(None)
    time.sleep(0.004)
"""
RECONNECT = """
import gc, subprocess, sys
from gi.repository import GLib
from k3s_ha_agent.host.bus import Connection
heap = [[n] for n in range(500_000)]  # makes a collection slow, so that messages come in during each
context = GLib.MainContext.default()
living = Connection(sys.argv[1], context, print)
flood = subprocess.Popen([sys.executable, "-c", sys.argv[2], sys.argv[1], living._bus.con.get_unique_name()])
try:
    for _ in range(40):
        lost = Connection(sys.argv[1], context, print)
        lost.close()
        lost.dispatch()
        del lost
        gc.collect()
finally:
    flood.kill()
print("through")
"""


def test_freeing_a_lost_connection_does_not_stop_the_process(bus: PrivateBus) -> None:
    """GDBus's thread and Python's garbage collection each wait for the other's lock, see bus.py."""
    child = subprocess.Popen(
        [sys.executable, "-c", RECONNECT, bus.address, FLOOD], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert child.communicate(timeout=LONG)[0] == "through\n"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
