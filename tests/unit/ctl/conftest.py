"""The command as users run it: a process of its own, against an agent that is another."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
AGENT = ROOT / "tests" / "api" / "agent.py"
LIMIT = 120
"""Seconds after which something hangs."""


def environment(**more: str) -> dict[str, str]:
    return {"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"], "LANG": "C.UTF-8", **more}


@dataclasses.dataclass
class Result:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Watching:
    """A command that is still running; its lines are read as they come."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        self._came = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._came:
                self.lines.append(line.rstrip("\n"))
                self._came.notify_all()
        with self._came:
            self._came.notify_all()

    def until(self, text: str) -> None:
        with self._came:
            found = self._came.wait_for(
                lambda: any(text in line for line in self.lines) or not self._reader.is_alive(), LIMIT
            )
        assert found and any(text in line for line in self.lines), (text, self.lines)

    def end(self) -> Result:
        code = self.process.wait(LIMIT)
        self._reader.join(LIMIT)
        assert self.process.stderr is not None
        return Result(code, "\n".join(self.lines), self.process.stderr.read())


class Scene:
    """An agent with a directory of its own, and the command."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.socket = directory / "api.sock"
        self._agent: subprocess.Popen[str] | None = None
        self._commands: list[subprocess.Popen[str]] = []

    def start(self, *arguments: str, **play: Any) -> None:
        """Start the agent; ``play`` says how its operations go."""
        self._agent = subprocess.Popen(
            [
                *(sys.executable, str(AGENT), "--socket", str(self.socket), "--directory", str(self.directory)),
                *("--play", json.dumps(play), *arguments),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment(),
        )
        assert self._agent.stdout is not None
        assert self._agent.stdout.readline() == "listening\n"

    def release(self) -> None:
        (self.directory / "release").touch()

    def stop(self, number: int = signal.SIGTERM) -> None:
        if self._agent is not None:
            self._agent.send_signal(number)
            self._agent.communicate(timeout=LIMIT)
            self._agent = None

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "k3s_ha_agent.ctl.main", "--socket", str(self.socket), *arguments]

    def run(self, *arguments: str, **options: Any) -> Result:
        done = subprocess.run(
            self.command(*arguments),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=LIMIT,
            **{"env": environment(), "cwd": ROOT, **options},
        )
        return Result(done.returncode, done.stdout, done.stderr)

    def watch(self, *arguments: str) -> Watching:
        process = subprocess.Popen(
            self.command(*arguments),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
            cwd=ROOT,
        )
        self._commands.append(process)
        return Watching(process)

    def close(self) -> None:
        for process in self._commands:
            if process.poll() is None:
                process.kill()
                process.wait(LIMIT)
        self.stop(signal.SIGKILL)


@pytest.fixture
def scene() -> Iterator[Scene]:
    directory = Path(tempfile.mkdtemp(prefix="k3sha-"))
    directory.chmod(0o755)
    made = Scene(directory)
    yield made
    made.close()
    shutil.rmtree(directory)


@pytest.fixture
def agent(scene: Scene) -> Callable[..., Scene]:
    """The scene with its agent started."""

    def start(**play: Any) -> Scene:
        scene.start(**play)
        return scene

    return start
