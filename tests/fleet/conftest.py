"""``k3s-ha-fleet`` as users run it: a process of its own, over simulated clusters that live in the test."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
import yaml

from k3s_ha_agent.model import Outcome
from k3s_ha_agent.settings import Settings
from tests.fleet.simulated import TOKEN, Fate, SimServer, World

ROOT = Path(__file__).parents[2]
LIMIT = 240
"""Seconds after which something hangs."""
BACK = (Outcome.ROLLED_BACK,)


@dataclasses.dataclass
class Done:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Fleet:
    """A world, its fleet.yaml, and the command."""

    def __init__(self, world: World, **top: Any) -> None:
        self.world = world
        self.file = world.directory / "fleet.yaml"
        self.log = world.directory / "log.jsonl"
        self._children: list[asyncio.subprocess.Process] = []
        self.write(**top)

    def write(self, **top: Any) -> None:
        """``fleet.yaml``; every other cluster has its token in a file of the controller."""
        secret = self.world.directory / "token"
        secret.write_text(TOKEN)
        secret.chmod(0o600)
        clusters = []
        for number, cluster in enumerate(self.world.clusters.values()):
            servers = [{"name": s.name, "agent": s.agent, "k3s": cluster.url} for s in cluster.servers]
            in_the_clear = any(s.agent.startswith("http:") for s in cluster.servers)
            join = {"controller_token_file": "token"} if number % 2 and not in_the_clear else {}
            clusters.append({"name": cluster.name, "servers": servers, "join": join})
        defaults = {"join": {"token_file": "/etc/k3s-token"}}
        defaults |= top.pop("defaults", {})
        limits = {"reach": "2s", "verify": "2s", **top.pop("limits", {})}
        text = {"fleet": "sims", "defaults": defaults, "clusters": clusters, "limits": limits, **top}
        self.file.write_text(yaml.safe_dump(text))

    async def start(self, command: str, *arguments: str) -> asyncio.subprocess.Process:
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "k3s_ha_agent.fleet.main", command, str(self.file), *arguments),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"], "LANG": "C.UTF-8"},
            cwd=ROOT,
        )
        self._children.append(child)
        return child

    async def run(self, command: str, *arguments: str) -> Done:
        return await finish(await self.start(command, *arguments))

    def events(self, name: str) -> list[dict[str, Any]]:
        """The log's events of that name."""
        found = [json.loads(line) for line in self.log.read_text().splitlines()]
        return [event for event in found if event["event"] == name]

    async def close(self) -> None:
        for child in self._children:
            if child.returncode is None:
                child.kill()
                await child.wait()
        await self.world.stop()


async def finish(child: asyncio.subprocess.Process) -> Done:
    out, err = await asyncio.wait_for(child.communicate(), LIMIT)
    assert child.returncode is not None
    return Done(child.returncode, out.decode(), err.decode())


async def kill(child: asyncio.subprocess.Process) -> None:
    assert child.returncode is None, "it ended before it could be killed"
    child.send_signal(signal.SIGKILL)
    await child.communicate()


MakeFleet = Callable[..., Awaitable[Fleet]]


@pytest.fixture
async def make_fleet() -> AsyncIterator[MakeFleet]:
    """A started world with its ``fleet.yaml``; all of it gone at the end."""
    made: list[Fleet] = []
    directories: list[Path] = []
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

    async def make(
        fates: dict[str, list[Fate]],
        *,
        seed: int = 1,
        noise: float = 0.0,
        step_time: float = 0.01,
        doors: Callable[[SimServer], Settings] | None = None,
        **top: Any,
    ) -> Fleet:
        directories.append(Path(tempfile.mkdtemp(prefix="k3sha-")))
        world = World(directories[-1], seed, noise=noise, step_time=step_time)
        for name, servers in fates.items():
            for server in world.add(name, servers).servers:
                server.doors = None if doors is None else doors(server)
        made.append(Fleet(world, **top))
        await world.start()
        return made[-1]

    yield make
    for one in made:
        await one.close()
    for directory in directories:
        shutil.rmtree(directory)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def random_fates(number: int, seed: int) -> dict[str, list[Fate]]:
    """Clusters of one to three servers; about one in five meets some misfortune on one of its servers."""
    chance = random.Random(seed)
    misfortunes = [
        *(lambda: Fate(outcomes=BACK),) * 4,
        *(lambda: Fate(refused=True),) * 3,
        lambda: Fate(outcomes=(Outcome.ROLLBACK_FAILED,)),
        lambda: Fate(dead=True),
        lambda: Fate(sick=True),
        lambda: Fate(alien=True),
    ]
    fates = {}
    for n in range(number):
        servers = [Fate() for _ in range(chance.choice((1, 2, 3, 3)))]
        if chance.random() < 0.2:
            servers[chance.randrange(len(servers))] = chance.choice(misfortunes)()
        fates[f"site-{n:03}"] = servers
    return fates


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Hundreds of agents tell of every request; nobody reads that here."""
    with structlog.testing.capture_logs():
        yield
