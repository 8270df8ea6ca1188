"""On a terminal: questions, the live picture, colours. The terminal is a real one (a pty)."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Callable

import pytest

from tests.unit.ctl.conftest import LIMIT, ROOT, Scene, environment

Agent = Callable[..., Scene]
COLOUR = re.compile(r"\x1b\[[0-9;]*3[0-9]m")


class Terminal:
    """A command with a terminal as its stdin, stdout and stderr."""

    def __init__(self, command: list[str], width: int = 100, **variables: str) -> None:
        self.master, slave = pty.openpty()
        # struct winsize: rows, columns, and their pixels, which nobody asks for (ioctl_tty(2)).
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, width, 0, 0))
        variables = {"TERM": "xterm-256color", **variables}
        self.process = subprocess.Popen(
            command, stdin=slave, stdout=slave, stderr=slave, env=environment(**variables), cwd=ROOT, close_fds=True
        )
        os.close(slave)
        self.text = ""

    def until(self, words: str) -> None:
        end = time.monotonic() + LIMIT
        while words not in self.text:
            assert time.monotonic() < end, self.text
            assert self._read(), self.text

    def _read(self) -> bool:
        ready, _, _ = select.select([self.master], [], [], LIMIT)
        assert ready, self.text
        try:
            data = os.read(self.master, 65536)
        except OSError:
            # Linux says EIO when the other side of a terminal is closed.
            return False
        self.text += data.decode()
        return bool(data)

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def end(self) -> int:
        while self._read():
            pass
        os.close(self.master)
        return self.process.wait(LIMIT)


@pytest.mark.parametrize(("answer", "code"), [("y\n", 0), ("yes\n", 0), ("n\n", 1), ("\n", 1), ("\x04", 1)])
def test_the_question(agent: Agent, answer: str, code: int) -> None:
    scene = agent()
    terminal = Terminal(scene.command("migrate"))
    terminal.until("[y/N] ")
    terminal.type(answer)
    assert terminal.end() == code
    assert len(scene.run("operations", "-o", "json").json["operations"]) == (1 if code == 0 else 0)
    assert ("Nothing was done." in terminal.text) == (code == 1)


@pytest.mark.parametrize("arguments", [["migrate", "--yes"], ["migrate", "--dry-run"], ["status"], ["preflight"]])
def test_no_question(agent: Agent, arguments: list[str]) -> None:
    scene = agent()
    terminal = Terminal(scene.command(*arguments))
    assert terminal.end() == 0
    assert "[y/N]" not in terminal.text


def test_the_live_picture(agent: Agent) -> None:
    scene = agent(hold_at="start-k3s", fail_in="prove")
    terminal = Terminal(scene.command("migrate", "--yes"))
    terminal.until("▸")
    terminal.until("start-k3s")
    terminal.until("deadline in")
    scene.release()
    assert terminal.end() == 3
    assert "\x1b[" in terminal.text
    assert COLOUR.search(terminal.text)
    assert "↩" in terminal.text
    assert "Undoing the operation" in terminal.text
    assert "EVIDENCE" in terminal.text
    assert "Rolled back after" in terminal.text
    # The cursor that was hidden while drawing is there again.
    assert terminal.text.rindex("\x1b[?25h") > terminal.text.rindex("\x1b[?25l")


def test_a_bar_for_what_is_counted(agent: Agent) -> None:
    scene = agent(hold_at="prove")
    scene.run("migrate", "--detach")
    terminal = Terminal(scene.command("watch"))
    terminal.until("prove")
    scene.release()
    assert terminal.end() == 0
    from k3s_ha_agent.ctl.follow import Update
    from k3s_ha_agent.ctl.output import Output
    from k3s_ha_agent.ctl.views import LiveView

    operation = scene.run("operations", "op-1", "-o", "json").json
    step = operation["steps"][3]
    step.update(status="doing", progress={"done": 620, "total": 1245, "unit": "keys"}, finished_at=None)
    output = Output(as_json=False, no_color=True)
    console = output.console()
    console.width = 100
    with console.capture() as drawn:
        console.print(LiveView(output)._picture(Update({**operation, "outcome": None}, away=3.2)))
    line = next(line for line in drawn.get().splitlines() if "start-k3s" in line)
    assert "━" in line
    assert "620 of 1245 keys" in line
    assert "away for 3s" in drawn.get()


@pytest.mark.parametrize("how", ["NO_COLOR", "--no-color"])
def test_no_colours(agent: Agent, how: str) -> None:
    scene = agent(fail_in="prove")
    terminal = Terminal(
        scene.command("migrate", "--yes", *(["--no-color"] if how == "--no-color" else [])),
        **({"NO_COLOR": "1"} if how == "NO_COLOR" else {}),
    )
    assert terminal.end() == 3
    assert not COLOUR.search(terminal.text)
    assert "↩" in terminal.text


def test_a_terminal_that_cannot_be_drawn_on(agent: Agent) -> None:
    scene = agent()
    terminal = Terminal(scene.command("migrate", "--yes"), TERM="dumb")
    assert terminal.end() == 0
    assert "\x1b" not in terminal.text
    assert "start-k3s done" in terminal.text


def test_interrupted_by_the_keyboard(agent: Agent) -> None:
    scene = agent(hold_at="start-k3s")
    terminal = Terminal(scene.command("migrate", "--yes"))
    terminal.until("▸")
    terminal.process.send_signal(2)
    assert terminal.end() == 130
    assert "Abort it:" in terminal.text
    assert terminal.text.rindex("\x1b[?25h") > terminal.text.rindex("\x1b[?25l")
    scene.release()
