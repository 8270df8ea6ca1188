"""units.py against a real dbus-daemon and services that really run."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from k3s_ha_agent.errors import SystemdError
from k3s_ha_agent.host.units import Units, UnitState
from tests.dbus.harness import FakeSystemd, PrivateBus, alive, descriptors, wait_until

LONG = 60.0
SLEEP = "[Unit]\nStartLimitIntervalSec=0\n[Service]\nExecStart=/bin/sleep 1000\n"


async def until(units: Units, unit: str, condition: Callable[[UnitState], Any]) -> UnitState:
    async with asyncio.timeout(LONG):
        while True:
            state = await units.state(unit)
            if condition(state):
                return state
            await asyncio.sleep(0.02)


async def test_properties_are_read_as_systemd_types_them(systemd: FakeSystemd, units: Units) -> None:
    fragment = systemd.write_unit(
        "k3s.service",
        "[Unit]\nDescription=K\n[Service]\nType=notify\nRestart=always\nEnvironment=A=1 'B=two words'\n"
        "EnvironmentFile=-/none/k3s.service.env\nEnvironmentFile=/dev/null\n"
        "ExecStart=/usr/local/bin/k3s \\\n    server \\\n\t'--node-name' 'n 1'\n"
        "[Install]\nWantedBy=multi-user.target\n",
    )
    drop_in = systemd.write_drop_in("k3s.service", "10-x.conf", "[Service]\nEnvironment=C=3\n")
    state = await units.state("k3s.service")
    assert (state.load_state, state.active_state, state.sub_state) == ("loaded", "inactive", "dead")
    assert state.exec_start == ("/usr/local/bin/k3s", "server", "--node-name", "n 1")
    assert state.environment == {"A": "1", "B": "two words", "C": "3"}
    assert state.environment_files == (Path("/none/k3s.service.env"), Path("/dev/null"))
    assert (state.fragment_path, state.drop_in_paths) == (fragment, (drop_in,))
    assert (state.type, state.restart, state.unit_file_state) == ("notify", "always", "disabled")
    assert (state.invocation_id, state.main_pid, state.job, state.active_enter_timestamp) == ("", 0, 0, 0.0)


async def test_unit_that_does_not_exist(systemd: FakeSystemd, units: Units) -> None:
    assert (await units.state("none.service")).load_state == "not-found"
    with pytest.raises(SystemdError, match=r"Cannot start none\.service: Unit none\.service not found") as caught:
        await units.start_unit("none.service")
    assert caught.value.extensions["dbus_error"] == "org.freedesktop.systemd1.NoSuchUnit"
    assert await (await units.stop_unit("never-heard-of.service")).wait(LONG) == "done"
    await units.reset_failed("never-heard-of.service")


async def test_start_and_stop(systemd: FakeSystemd, units: Units) -> None:
    systemd.write_unit("s.service", SLEEP)
    assert await (await units.start_unit("s.service")).wait(LONG) == "done"
    state = await units.state("s.service")
    assert state.active and state.sub_state == "running" and alive(state.main_pid)
    assert len(state.invocation_id) == 32 and state.active_enter_timestamp > 0
    assert await (await units.start_unit("s.service")).wait(LONG) == "done", "already active"
    assert (await units.state("s.service")).main_pid == state.main_pid
    assert await (await units.restart_unit("s.service")).wait(LONG) == "done"
    again = await units.state("s.service")
    assert again.main_pid != state.main_pid and again.invocation_id != state.invocation_id
    assert not alive(state.main_pid)
    assert await (await units.stop_unit("s.service")).wait(LONG) == "done"
    stopped = await units.state("s.service")
    assert (stopped.active_state, stopped.exec_main_code, stopped.exec_main_status) == ("inactive", 2, signal.SIGTERM)
    assert not alive(again.main_pid)


async def test_lost_job_removed_does_not_hang(systemd: FakeSystemd, units: Units) -> None:
    systemd.write_unit("s.service", SLEEP)
    systemd.write_unit("bad.service", "[Service]\nType=oneshot\nExecStart=/bin/false\n")
    systemd.control("lose-job-removed", count=-1)
    assert await (await units.start_unit("s.service")).wait(LONG, look_every=0.1) == "done"
    assert await (await units.start_unit("bad.service")).wait(LONG, look_every=0.1) == "failed"
    assert await (await units.stop_unit("s.service")).wait(LONG, look_every=0.1) == "done"
    assert systemd.unit("s.service")["active_state"] == "inactive"


async def test_signal_alone_ends_the_wait(systemd: FakeSystemd, units: Units) -> None:
    """The look every few seconds is a net; the signal is what normally ends it."""
    systemd.write_unit("s.service", SLEEP)
    job = await units.start_unit("s.service")
    assert await job.wait(LONG, look_every=1000) == "done"


async def test_job_that_is_over_before_it_is_waited_for(systemd: FakeSystemd, units: Units) -> None:
    systemd.write_unit("s.service", SLEEP)
    job = await units.start_unit("s.service")
    await until(units, "s.service", lambda state: state.active and state.job == 0)
    assert await job.wait(LONG, look_every=1000) == "done"


async def test_wait_has_an_end_and_the_job_goes_on(systemd: FakeSystemd, units: Units) -> None:
    systemd.write_unit("never.service", "[Service]\nType=notify\nTimeoutStartSec=0\nExecStart=/bin/sleep 1000\n")
    job = await units.start_unit("never.service")
    with pytest.raises(SystemdError, match=r"start job of never\.service did not end within 0\.3 s"):
        await job.wait(0.3)
    state = await units.state("never.service")
    assert (state.active_state, state.sub_state, state.job) == ("activating", "start", job.id)
    assert await (await units.stop_unit("never.service")).wait(LONG) == "done"
    assert await job.wait(LONG) == "canceled"


async def test_failed_job(systemd: FakeSystemd, units: Units) -> None:
    systemd.write_unit("bad.service", "[Service]\nType=notify\nExecStart=/bin/sh -c 'exit 7'\n")
    assert await (await units.start_unit("bad.service")).wait(LONG) == "failed"
    state = await units.state("bad.service")
    assert (state.active_state, state.result, state.exec_main_code, state.exec_main_status) == (
        "failed",
        "exit-code",
        1,
        7,
    )
    await units.reset_failed("bad.service")
    assert (await units.state("bad.service")).active_state == "inactive"


async def test_start_canceled_by_a_stop_that_lost_its_signal(systemd: FakeSystemd, units: Units) -> None:
    systemd.write_unit("never.service", "[Service]\nType=notify\nExecStart=/bin/sleep 1000\n")
    job = await units.start_unit("never.service")
    systemd.control("lose-job-removed", count=-1)
    await units.stop_unit("never.service")
    assert await job.wait(LONG, look_every=0.05) == "canceled"


async def test_result_systemd_gives_is_passed_on(systemd: FakeSystemd, units: Units) -> None:
    systemd.write_unit("s.service", SLEEP)
    systemd.control("job-result", unit="s.service", result="dependency")
    assert await (await units.start_unit("s.service")).wait(LONG) == "dependency"


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


async def test_automatic_restarts_are_counted(systemd: FakeSystemd, units: Units) -> None:
    systemd.write_unit(
        "k.service",
        "[Unit]\nStartLimitIntervalSec=0\n[Service]\nType=notify\nRestart=always\nRestartSec=0.05\nTimeoutStartSec=0\n"
        f"ExecStart=/bin/sh -c 'if [ -e {systemd.units}/crash ]; then exit 1; fi; exec sleep 1000'\n",
    )
    (systemd.units / "crash").touch()
    assert await (await units.start_unit("k.service")).wait(LONG) == "failed", "the first failure ends the job"
    state = await until(units, "k.service", lambda state: state.n_restarts >= 3)
    assert state.active_state == "activating"
    (systemd.units / "crash").unlink()
    await until(units, "k.service", lambda state: state.sub_state == "start")
    assert await (await units.stop_unit("k.service")).wait(LONG) == "done"
    state = await units.state("k.service")
    assert state.n_restarts >= 3, "still to be seen after the stop"
    await units.reset_failed("k.service")
    assert (await units.state("k.service")).n_restarts == 0


async def test_drop_in_is_honoured_after_daemon_reload(systemd: FakeSystemd, units: Units) -> None:
    """The gate: Restart=no and an ExecStartPre that refuses."""
    half = systemd.units / "half-copied"
    systemd.write_unit("k.service", "[Service]\nRestart=always\nRestartSec=0.05\nExecStart=/bin/sleep 1000\n")
    assert await (await units.start_unit("k.service")).wait(LONG) == "done"
    gate = systemd.write_drop_in(
        "k.service", "zz-gate.conf", f"[Service]\nRestart=no\nExecStartPre=/bin/sh -c 'test ! -e {half}'\n"
    )
    state = await units.state("k.service")
    assert state.restart == "always" and state.drop_in_paths == ()
    await units.daemon_reload()
    state = await units.state("k.service")
    assert (state.need_daemon_reload, state.restart, state.drop_in_paths) == (False, "no", (gate,))
    half.touch()
    await units.kill_unit("k.service", signal.SIGKILL)
    state = await until(units, "k.service", lambda state: state.active_state == "failed")
    assert (state.n_restarts, state.result, state.exec_main_status) == (0, "signal", signal.SIGKILL)
    assert await (await units.start_unit("k.service")).wait(LONG) == "failed", "the gate is shut"
    assert (await units.state("k.service")).result == "exit-code"
    gate.unlink()
    await units.daemon_reload()
    assert await (await units.start_unit("k.service")).wait(LONG) == "done"


async def test_transient_timer_starts_its_service(systemd: FakeSystemd, units: Units) -> None:
    systemd.write_unit("rescue.service", f"[Service]\nType=oneshot\nExecStart=/bin/touch {systemd.units}/rescued\n")
    await units.start_transient_timer("rescue.timer", 0.2, "The last resort")
    assert (await units.state("rescue.timer")).unit_file_state in ("transient", "")
    wait_until((systemd.units / "rescued").exists, "the rescue")
    gone = await until(units, "rescue.timer", lambda state: not state.active)
    assert gone.load_state == "not-found"


async def test_transient_timer_can_be_stopped_and_replaced(systemd: FakeSystemd, units: Units) -> None:
    systemd.write_unit("rescue.service", f"[Service]\nType=oneshot\nExecStart=/bin/touch {systemd.units}/rescued\n")
    await units.start_transient_timer("rescue.timer", 1000, "first")
    first = await units.state("rescue.timer")
    assert (first.active_state, first.sub_state) == ("active", "waiting")
    await units.daemon_reload()
    assert (await units.state("rescue.timer")).active, "a reload leaves it armed"
    await units.start_transient_timer("rescue.timer", 1000, "again, as a resumption does")
    second = await units.state("rescue.timer")
    assert second.active and second.invocation_id != first.invocation_id
    assert await (await units.stop_unit("rescue.timer")).wait(LONG) == "done"
    assert (await units.state("rescue.timer")).load_state == "not-found"
    assert await (await units.stop_unit("rescue.timer")).wait(LONG) == "done", "twice"
    assert not (systemd.units / "rescued").exists()
    with pytest.raises(ValueError, match="timer"):
        await units.start_transient_timer("rescue.service", 1, "")


async def test_enable_and_disable(systemd: FakeSystemd, units: Units) -> None:
    systemd.write_unit("s.service", SLEEP + "[Install]\nWantedBy=multi-user.target\n")
    await units.enable("s.service")
    assert (await units.state("s.service")).unit_file_state == "enabled"
    await units.disable("s.service")
    assert (await units.state("s.service")).unit_file_state == "disabled"


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


async def test_calls_from_many_tasks(systemd: FakeSystemd, units: Units) -> None:
    names = [f"s{n}.service" for n in range(8)]
    for name in names:
        systemd.write_unit(name, SLEEP)

    async def all_of(act: Callable[[str], Awaitable[Any]]) -> list[str]:
        jobs = await asyncio.gather(*(act(name) for name in names))
        return await asyncio.gather(*(job.wait(LONG) for job in jobs))

    assert await all_of(units.start_unit) == ["done"] * 8
    assert await all_of(units.stop_unit) == ["done"] * 8


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
    import subprocess
    import sys

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
