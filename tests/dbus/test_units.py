"""units.py against a real dbus-daemon and services that really run."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from k3s_ha_agent.errors import SystemdError
from k3s_ha_agent.host.units import Units
from tests.dbus.harness import FakeSystemd, alive, until, wait_until

LONG = 60.0
SLEEP = "[Unit]\nStartLimitIntervalSec=0\n[Service]\nExecStart=/bin/sleep 1000\n"


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


async def test_automatic_restarts_are_counted(systemd: FakeSystemd, units: Units) -> None:
    systemd.write_unit(
        "k.service",
        "[Unit]\nStartLimitIntervalSec=0\n[Service]\nType=notify\nRestart=always\nRestartSec=0.05\nTimeoutStartSec=0\n"
        f"ExecStart=/bin/sh -c 'if [ -e {systemd.units}/crash ]; then exit 1; fi; exec sleep 1000'\n",
    )
    (systemd.units / "crash").touch()
    assert await (await units.start_unit("k.service")).wait(LONG) == "failed", "the first failure ends the job"
    await until(units, "k.service", lambda state: state.n_restarts >= 3)
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


async def test_calls_from_many_tasks(systemd: FakeSystemd, units: Units) -> None:
    names = [f"s{n}.service" for n in range(8)]
    for name in names:
        systemd.write_unit(name, SLEEP)

    async def all_of(act: Callable[[str], Awaitable[Any]]) -> list[str]:
        jobs = await asyncio.gather(*(act(name) for name in names))
        return await asyncio.gather(*(job.wait(LONG) for job in jobs))

    assert await all_of(units.start_unit) == ["done"] * 8
    assert await all_of(units.stop_unit) == ["done"] * 8
