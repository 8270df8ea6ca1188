"""What systemd does, seen through ``Units``: one scenario, run on a real systemd and on the fake one.

``systemd-252.json`` holds what a real one answered. To record again, in a node with systemd as PID 1, this
checkout at /opt/agent and Debian's python3-pydbus:

    PYTHONPATH=/opt/agent python3 -m tests.dbus.behaviour /etc/systemd/system /run > systemd-252.json
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from k3s_ha_agent.errors import SystemdError
from k3s_ha_agent.host.units import Units, UnitState

LIMIT = 60.0
INSTALL = "[Install]\nWantedBy=multi-user.target\n"
"""Enabled units are what k3s is: systemd keeps them loaded, so their results outlive a stop."""


def brief(state: UnitState) -> list[Any]:
    code = [state.exec_main_code, state.exec_main_status]
    return [state.active_state, state.sub_state, state.result, state.n_restarts, code, state.restart]


class Scenario:
    def __init__(self, units: Units, directory: Path, scratch: Path) -> None:
        self.units, self.directory, self.scratch = units, directory, scratch
        self.seen: dict[str, Any] = {}

    def write(self, name: str, text: str) -> None:
        (self.directory / name).write_text(text.replace("@S", str(self.scratch)))

    async def add(self, name: str, text: str) -> None:
        self.write(name, text + INSTALL)
        await self.units.enable(name)

    async def until(self, unit: str, condition: Callable[[UnitState], Any]) -> UnitState:
        async with asyncio.timeout(LIMIT):
            while not condition(state := await self.units.state(unit)):
                await asyncio.sleep(0.01)
        return state

    async def there(self, name: str) -> str:
        async with asyncio.timeout(LIMIT):
            while not (self.scratch / name).exists() or not (self.scratch / name).read_text().endswith("\n"):
                await asyncio.sleep(0.01)
        return (self.scratch / name).read_text()

    async def do(self, verb: str, unit: str) -> str:
        job = await getattr(self.units, f"{verb}_unit")(unit)
        result: str = await job.wait(LIMIT)
        return result

    async def note(self, what: str, unit: str, result: str = "") -> None:
        self.seen[what] = [result, *brief(await self.units.state(unit))]

    async def refusal(self, what: str, act: Any) -> None:
        try:
            await act
        except SystemdError as error:
            self.seen[what] = error.extensions.get("dbus_error", error.detail)
        else:
            self.seen[what] = "not refused"

    # --- the parts ----------------------------------------------------------------------------

    async def loading(self) -> None:
        state = await self.units.state("none.service")
        self.seen["not found"] = [state.load_state, *brief(state)]
        await self.refusal("start what is not found", self.units.start_unit("none.service"))
        await self.refusal("restart what is not found", self.units.restart_unit("none.service"))
        (self.directory / "masked.service").symlink_to("/dev/null")
        await self.units.daemon_reload()
        self.seen["masked"] = [(await self.units.state("masked.service")).load_state]
        await self.refusal("start what is masked", self.units.start_unit("masked.service"))
        self.write("empty.service", "[Unit]\nDescription=no command\n")
        await self.units.daemon_reload()
        self.seen["no command"] = [(await self.units.state("empty.service")).load_state]
        await self.refusal("start what has no command", self.units.start_unit("empty.service"))
        (self.scratch / "env").write_text("# comment\nE=from file\nQ='quoted text'\n\nD=\"double\"\n")
        await self.add(
            "words.service",
            "[Service]\nType=oneshot\nEnvironment=A=1 'B=two words'\nEnvironment=C=3\nEnvironmentFile=-@S/none\n"
            "EnvironmentFile=@S/env\nExecStart=/bin/false\nExecStart=\n"
            'ExecStart=/bin/sh -c \'for w in "$@"; do echo "[$w]"; done >@S/words.t; mv @S/words.t @S/words\' %n \\\n'
            "    ${A} $B x${C}y \"$B\" $$A '${B}' $NONE ${NONE} $Q $D %N %% a\\ b\nExecStart=-/bin/false\n",
        )
        state = await self.units.state("words.service")
        self.seen["environment"] = [dict(state.environment), [p.name for p in state.environment_files]]
        self.seen["argv"] = [word.replace(str(self.scratch), "@S") for word in state.exec_start]
        await self.note("several commands", "words.service", await self.do("start", "words.service"))
        self.seen["words"] = (await self.there("words")).splitlines()

    async def running(self) -> None:
        unit = "run.service"
        await self.add(
            unit,
            "[Unit]\nStartLimitIntervalSec=0\n[Service]\nType=notify\nNotifyAccess=all\nRestart=always\nRestartSec=0.2\n"
            "ExecStartPre=-/bin/false\nExecStart=/bin/sh -c 'systemd-notify --ready --status=up; exec sleep 1000'\n",
        )
        await self.note("started", unit, await self.do("start", unit))
        state = await self.units.state(unit)
        self.seen["status text"] = state.status_text
        self.seen["enabled"] = [state.unit_file_state, bool(state.main_pid), len(state.invocation_id), state.job]
        await self.note("started again", unit, await self.do("start", unit))
        self.seen["same run"] = (await self.units.state(unit)).invocation_id == state.invocation_id
        await self.units.kill_unit(unit, signal.SIGKILL)
        again = await self.until(unit, lambda state: state.n_restarts == 1 and state.active)
        self.seen["killed, restarted"] = brief(again)
        self.seen["another run"] = again.invocation_id != state.invocation_id
        await self.note("restarted by hand", unit, await self.do("restart", unit))
        await self.units.kill_unit(unit, signal.SIGKILL)
        await self.until(unit, lambda state: state.n_restarts == 1 and state.active)
        await self.note("stopped", unit, await self.do("stop", unit))
        await self.note("stopped again", unit, await self.do("stop", unit))
        await self.refusal("kill nothing", self.units.kill_unit(unit, signal.SIGKILL))
        await self.note("started after the stop", unit, await self.do("start", unit))

    async def drop_ins(self) -> None:
        unit = "run.service"
        gate = self.directory / f"{unit}.d" / "zz-gate.conf"
        gate.parent.mkdir()
        self.write(f"{unit}.d/zz-gate.conf", "[Service]\nRestart=no\nExecStartPre=/bin/sh -c 'test ! -e @S/half'\n")

        async def note(what: str) -> None:
            state = await self.units.state(unit)
            self.seen[what] = [state.need_daemon_reload, state.restart, [path.name for path in state.drop_in_paths]]

        await note("drop-in in a new directory, not reloaded")
        await self.units.daemon_reload()
        await note("drop-in, reloaded")
        (self.scratch / "half").touch()
        await self.units.kill_unit(unit, signal.SIGKILL)
        await self.until(unit, lambda state: state.active_state == "failed")
        await self.note("killed behind the gate", unit)
        await self.note("refused by the gate", unit, await self.do("start", unit))
        await self.note("stopped when failed", unit, await self.do("stop", unit))
        self.write(f"{unit}.d/zz-gate.conf", "[Service]\nRestart=no\n# longer than before, and of another time\n" * 9)
        await note("drop-in changed, not reloaded")
        await self.units.daemon_reload()
        await self.note("gate opened", unit, await self.do("start", unit))
        (self.directory / f"{unit}.d" / "zz-second.conf").write_text("[Service]\nRestart=on-failure\n")
        await note("second drop-in, not reloaded")
        await self.units.daemon_reload()
        await note("second drop-in, reloaded")
        gate.unlink()
        await note("drop-in removed, not reloaded")
        await self.units.daemon_reload()
        await note("drop-in removed, reloaded")
        await self.do("stop", unit)

    async def crashing(self) -> None:
        unit = "crash.service"
        await self.add(
            unit,
            "[Unit]\nStartLimitIntervalSec=0\nOnFailure=told.service\n[Service]\nType=notify\nNotifyAccess=all\n"
            "Restart=always\nRestartSec=0.4\nTimeoutStartSec=0\n"
            "ExecStart=/bin/sh -c 'if [ -e @S/hold ]; then exec sleep 1000; fi; exit 3'\n",
        )
        await self.add("told.service", "[Service]\nType=oneshot\nExecStart=/bin/sh -c 'echo told >@S/told'\n")
        await self.note_when("crash", unit, "auto-restart", await self.do("start", unit))
        await self.until(unit, lambda state: state.n_restarts >= 2)
        state = await self.until(unit, lambda state: state.sub_state == "auto-restart")
        self.seen["no job while it waits"] = state.job
        job = await self.units.start_unit(unit)
        self.seen["start while it waits"] = (await self.units.state(unit)).job == job.id
        self.seen["its result"] = await job.wait(LIMIT)
        self.seen["counted on"] = (await self.units.state(unit)).n_restarts > state.n_restarts
        await self.until(unit, lambda state: state.sub_state == "auto-restart")
        before = (await self.units.state(unit)).n_restarts
        self.seen["stop while it waits"] = await self.do("stop", unit)
        state = await self.units.state(unit)
        self.seen["after that stop"] = [*brief(state)[:3], state.n_restarts - before]
        self.seen["OnFailure= when restarted"] = (self.scratch / "told").exists()
        (self.scratch / "hold").touch()
        start = await self.units.start_unit(unit)
        state = await self.until(unit, lambda state: state.sub_state == "start")
        self.seen["restarts counted from 0"] = state.n_restarts == 0
        stop = await self.units.stop_unit(unit)
        self.seen["stop against a start"] = [await start.wait(LIMIT), await stop.wait(LIMIT)]
        await self.note("after it", unit)
        (self.scratch / "hold").unlink()
        await self.do("start", unit)
        await self.until(unit, lambda state: state.n_restarts >= 1)
        await self.units.reset_failed(unit)
        self.seen["reset"] = (await self.units.state(unit)).n_restarts <= 1
        await self.do("stop", unit)
        self.write(
            f"{unit}", "[Service]\nType=oneshot\nExecStart=/bin/false\n[Unit]\nOnFailure=told.service\n" + INSTALL
        )
        await self.units.daemon_reload()
        await self.note("fails for good", unit, await self.do("start", unit))
        self.seen["OnFailure="] = await self.there("told")
        await self.units.reset_failed(unit)
        await self.note("forgotten", unit)

    async def note_when(self, what: str, unit: str, sub_state: str, result: str) -> None:
        state = await self.until(unit, lambda state: state.sub_state == sub_state)
        self.seen[what] = [result, *brief(state)[:3]]

    async def ending(self) -> None:
        await self.add(
            "exits.service", "[Service]\nExecStart=/bin/sh -c 'trap \"exit 5\" TERM; while :; do sleep 0.02; done'\n"
        )
        self.seen["exits 5 on SIGTERM"] = await self.stopped("exits.service")
        await self.add(
            "deaf.service",
            "[Service]\nTimeoutStopSec=0.3\nExecStart=/bin/sh -c 'trap \"\" TERM; while :; do sleep 0.02; done'\n",
        )
        self.seen["deaf to SIGTERM"] = await self.stopped("deaf.service")
        await self.add(
            "slow.service",
            "[Service]\n"
            "ExecStart=/bin/sh -c 'trap \"sleep 0.5; exit 0\" TERM; touch @S/up; while :; do sleep 0.02; done'\n",
        )
        await self.do("start", "slow.service")
        async with asyncio.timeout(LIMIT):
            while not (self.scratch / "up").exists():
                await asyncio.sleep(0.01)
        stop = await self.units.stop_unit("slow.service")
        await self.until("slow.service", lambda state: state.active_state == "deactivating")
        start = await self.units.start_unit("slow.service")
        self.seen["start against a stop"] = [await stop.wait(LIMIT), await start.wait(LIMIT)]
        await self.note("after that", "slow.service")
        for mode in ("process", "control-group"):
            unit = f"mode-{mode}.service"
            await self.add(
                unit,
                f"[Service]\nKillMode={mode}\n"
                f"ExecStart=/bin/sh -c 'sleep 1000 & echo $! >@S/{mode}.tmp; mv @S/{mode}.tmp @S/{mode}; wait'\n",
            )
            await self.do("start", unit)
            child = int(await self.there(mode))
            await self.do("stop", unit)
            self.seen[f"KillMode={mode}: the child lives"] = lives(child)
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)

    async def stopped(self, unit: str) -> list[Any]:
        results = [await self.do("start", unit)]
        await asyncio.sleep(0.3)  # until the shell has set its trap
        results.append(await self.do("stop", unit))
        return [*results, *brief(await self.units.state(unit))]

    async def failing(self) -> None:
        await self.add("missing.service", "[Service]\nType=notify\nExecStart=/none/such --x\n")
        await self.note("no such program", "missing.service", await self.do("start", "missing.service"))
        await self.add("quiet.service", "[Service]\nType=notify\nExecStart=/bin/true\n")
        await self.note("ends without READY=1", "quiet.service", await self.do("start", "quiet.service"))
        await self.add("late.service", "[Service]\nType=notify\nTimeoutStartSec=0.3\nExecStart=/bin/sleep 1000\n")
        await self.note("not ready in time", "late.service", await self.do("start", "late.service"))
        await self.add("one.service", "[Service]\nType=oneshot\nExecStart=/bin/true\n")
        await self.note("oneshot", "one.service", await self.do("start", "one.service"))
        await self.add("stays.service", "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/true\n")
        await self.note("oneshot that remains", "stays.service", await self.do("start", "stays.service"))
        await self.add("unmet.service", "[Unit]\nConditionPathExists=@S/none\n[Service]\nExecStart=/bin/sleep 1000\n")
        await self.note("condition not met", "unmet.service", await self.do("start", "unmet.service"))
        await self.add("env.service", "[Service]\nEnvironmentFile=@S/none\nExecStart=/bin/sleep 1000\n")
        await self.note("no environment file", "env.service", await self.do("start", "env.service"))
        await self.add(
            "hang.service",
            "[Service]\nType=notify\nNotifyAccess=all\nWatchdogSec=0.3\n"
            "ExecStart=/bin/sh -c 'systemd-notify --ready; exec sleep 1000'\n",
        )
        await self.do("start", "hang.service")
        await self.until("hang.service", lambda state: state.active_state == "failed")
        await self.note("watchdog", "hang.service")
        await self.add("limit.service", "[Service]\nExecStart=/bin/sleep 1000\n")
        results = [await self.do("start", "limit.service")]
        while results[-1] == "done" and len(results) < 12:
            results.append(await self.do("restart", "limit.service"))
        await self.note("start limit", "limit.service", " ".join(results))
        await self.units.reset_failed("limit.service")
        await self.note("start limit forgotten", "limit.service", await self.do("start", "limit.service"))

    async def timers(self) -> None:
        await self.add("alarm.service", "[Service]\nType=oneshot\nExecStart=/bin/sh -c 'echo rang >@S/rang'\n")
        await self.units.start_transient_timer("alarm.timer", 1000, "An alarm")
        state = await self.units.state("alarm.timer")
        self.seen["timer"] = [state.load_state, state.active_state, state.sub_state, state.unit_file_state, state.job]
        await self.units.daemon_reload()
        self.seen["timer after a reload"] = (await self.units.state("alarm.timer")).sub_state
        self.seen["timer stopped"] = await self.do("stop", "alarm.timer")
        self.seen["timer then"] = (await self.units.state("alarm.timer")).load_state
        self.seen["timer stopped again"] = await self.do("stop", "alarm.timer")
        await self.units.start_transient_timer("alarm.timer", 1000, "An alarm")
        await self.units.start_transient_timer("alarm.timer", 0.05, "Another")
        self.seen["rings"] = await self.there("rang")
        self.seen["timer after it"] = (await self.until("alarm.timer", lambda state: not state.active)).load_state
        await self.refusal("timer of nothing", self.units.start_transient_timer("nothing.timer", 1, "x"))


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


async def observe(units: Units, directory: Path, scratch: Path) -> dict[str, Any]:
    """Run it all; ``directory`` is where unit files lie, ``scratch`` is theirs to write to."""
    scenario = Scenario(units, directory, scratch)
    for part in ("loading", "running", "drop_ins", "crashing", "ending", "failing", "timers"):
        await getattr(scenario, part)()
    return scenario.seen


async def main() -> None:
    async with Units() as units:
        seen = await observe(units, Path(sys.argv[1]), Path(sys.argv[2]))
    print(json.dumps(seen, indent=1))


if __name__ == "__main__":
    asyncio.run(main())
