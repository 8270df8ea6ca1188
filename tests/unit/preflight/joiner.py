"""A server that asks to join, in the network of the stand-ins' bridge: real files, a unit on a real D-Bus, no k3s."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from k3s_ha_agent.host.resources import FsyncProbe
from k3s_ha_agent.host.units import Units
from k3s_ha_agent.k3s.token import Token
from k3s_ha_agent.model import CheckResult, CheckStatus, Kind
from k3s_ha_agent.preflight.gather import gather
from k3s_ha_agent.preflight.inspector import facts_of
from k3s_ha_agent.preflight.join_target import JoinTarget
from k3s_ha_agent.preflight.run import run
from k3s_ha_agent.preflight.subject import Subject
from k3s_ha_agent.settings import Settings
from tests.dbus.harness import FakeSystemd
from tests.standin.harness import K3s
from tests.unit.preflight.server import K3S, tree

ADDRESS = "10.99.0.254"
"""The one ``machines`` gives the test's own network."""


class Joiner:
    def __init__(self, directory: Path, bus_address: str, systemd: FakeSystemd, version: str) -> None:
        self.directory, self.systemd, self.version = directory, systemd, version
        self.settings = Settings(
            data_dir=directory / "data",
            k3s_config=directory / "k3s/config.yaml",
            systemd_dir=directory / "systemd",
            state_dir=directory / "state",
            runtime_dir=directory / "run",
            root=directory / "root",
            dbus_address=bus_address,
        )
        self.password_file = self.settings.root / "etc/rancher/node/password"
        self.env = directory / "k3s.service.env"
        # Paths are looked up below the root; ours are there by a link.
        above = self.settings.root / directory.relative_to("/")
        above.parent.mkdir(parents=True, exist_ok=True)
        above.symlink_to(directory)
        self.reset()

    def reset(self) -> None:
        """As it was in the beginning."""
        for path in (self.settings.runtime_dir, self.settings.state_dir, self.settings.k3s_config.parent):
            path.mkdir(parents=True, exist_ok=True)
        self.env.write_text("")
        self.configure()
        self.write_binary(self.version)
        self.systemd.write_unit("k3s.service", self._unit())

    def configure(self, **more: Any) -> None:
        config = {"node-name": "n9", "node-ip": ADDRESS, "data-dir": str(self.settings.data_dir), **more}
        self.settings.k3s_config.write_text(yaml.safe_dump(config))

    def write_binary(self, version: str) -> None:
        binary = self.directory / "bin/k3s"
        binary.parent.mkdir(exist_ok=True)
        binary.write_text(K3S.format(version=version))
        binary.chmod(0o755)

    def _unit(self) -> str:
        return (
            "[Unit]\nDescription=Lightweight Kubernetes\n[Service]\nType=exec\n"
            f"EnvironmentFile=-{self.env}\nExecStart={self.directory}/bin/k3s server "
            f"--config={self.settings.k3s_config}\n"
        )

    def look(self, url: str, token: str) -> tuple[Subject, dict[str, CheckResult], dict[str, Any]]:
        """The Subject, what objects to the join but for what always warns here, and the facts."""
        return asyncio.run(self._look(JoinTarget(url, Token.parse(token))))

    def _ours(self, found: dict[str, Any]) -> dict[str, Any]:
        """But for the directory in which a file lies for the moment OpenSSL reads it: nothing may be left in that."""
        run = str(self.settings.runtime_dir)
        return {path: None if path in (run, f"{run}/.") else what for path, what in found.items()}

    async def _look(self, target: JoinTarget) -> tuple[Subject, dict[str, CheckResult], dict[str, Any]]:
        async with Units(self.settings.dbus_address) as units:
            await units.daemon_reload()
            before = tree(self.directory)
            subject = await gather(self.settings, units, Kind.JOIN, target=target)
            assert self._ours(tree(self.directory)) == self._ours(before), "nothing is written here"
        # What this test machine has varies; etcd's ports and the clock are those of the machine of the tests.
        subject = dataclasses.replace(
            subject, fsync=FsyncProbe(100, 0.001, 0.002, 0.003), listeners={}, clock_synchronised=True
        )
        results = await run(Kind.JOIN, subject)
        always = {"reverse-ports": CheckStatus.WARNED}
        found = {r.name: r for r in results if r.status is not CheckStatus.OK and always.get(r.name) is not r.status}
        assert target.token.password not in repr((subject, results))
        return subject, found, facts_of(subject)


def refused(found: dict[str, CheckResult]) -> set[str]:
    return {name for name, result in found.items() if result.status is CheckStatus.REFUSED}


def cluster_state(servers: Sequence[K3s]) -> dict[str, Any]:
    """Members, and every key but the leases that are renewed all the time; the files of the servers but for etcd's."""
    first = servers[0]
    quiet = ("/registry/leases/", "/registry/masterleases/", "/registry/events/")
    keys = {k: v["value"] for k, v in first.etcd_keys(port=2379).items() if not k.startswith(quiet)}
    members = first.gateway("cluster/member/list", {})["members"]
    files = [tree(s.server / name) for s in servers for name in ("tls", "cred")]
    return {"keys": keys, "members": members, "files": files}
