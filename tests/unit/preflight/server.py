"""A k3s server as the agent finds it: a data dir of real files, a unit on a real D-Bus, an API over TLS.

Only k3s itself is played: a script that sleeps, and an API server that replays the recordings.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import os
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from aiohttp import web

from k3s_ha_agent.host.units import Units
from k3s_ha_agent.k3s.layout import Layout
from k3s_ha_agent.preflight.files import _BOOTSTRAP_FILES, _CLIENT_FILES
from k3s_ha_agent.settings import Settings
from tests.dbus.harness import FakeSystemd, PrivateBus
from tests.unit.k3s.pki import Authority
from tests.unit.k3s.serving import serving
from tests.unit.preflight.subjects import NODE, TOKEN, VERSION, recorded_sqlite

K3S = """#!/bin/sh
case "$1" in
--version) printf 'k3s version %s (c4ebe192)\\ngo version go1.16.8\\n' "{version}" ;;
server) systemd-notify --ready && exec sleep 100000 ;;
esac
"""


class Server:
    """Its files below one directory. ``settings`` is what an agent on it would be given."""

    def __init__(self, directory: Path, bus_address: str) -> None:
        self.directory = directory
        self.layout = Layout(directory / "data")
        self.config = directory / "etc/rancher/k3s/config.yaml"
        self.env = directory / "k3s.service.env"
        self.binary = directory / "bin/k3s"
        self.settings = Settings(
            data_dir=self.layout.data_dir,
            k3s_config=self.config,
            systemd_dir=directory / "systemd",
            state_dir=directory / "state",
            root=Path("/"),
            dbus_address=bus_address,
        )
        self.authority = Authority("k3s-server-ca")
        self.node: dict[str, Any] = copy.deepcopy(NODE)
        self.node["status"]["addresses"][0]["address"] = "127.0.0.1"
        self.settings.systemd_dir.mkdir(parents=True, exist_ok=True)
        self._write_files()

    def _write_files(self) -> None:
        server = self.layout.server
        for name in _BOOTSTRAP_FILES + _CLIENT_FILES:
            path = server / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"content of {name}\n")
        self.layout.server_ca.write_bytes(self.authority.pem)
        self.authority.issue(self.layout.tls, "client-admin")
        self.authority.issue(self.directory / "api", "serving")
        token = f"K10{hashlib.sha256(self.authority.pem).hexdigest()}::server:{TOKEN.password}\n"
        self.layout.token_file.write_text(token)
        self.layout.token_file.chmod(0o600)
        recorded_sqlite(self.layout.db)
        self.write_binary(VERSION)
        self.env.write_text("K3S_NODE_NAME=n1\n")

    def write_binary(self, version: str) -> None:
        self.binary.parent.mkdir(exist_ok=True)
        self.binary.write_text(K3S.format(version=version))
        self.binary.chmod(0o755)

    def configure(self, text: str) -> None:
        self.config.parent.mkdir(parents=True, exist_ok=True)
        self.config.write_text(text)

    def unit_text(self, *, restart: str = "always") -> str:
        return (
            "[Unit]\nDescription=Lightweight Kubernetes\n[Service]\nType=notify\nNotifyAccess=all\n"
            f"EnvironmentFile=-{self.env}\nExecStart={self.binary} server --data-dir={self.layout.data_dir}"
            f" --config={self.config}\nRestart={restart}\nRestartSec=5\n"
        )

    @contextlib.asynccontextmanager
    async def api(self) -> AsyncIterator[None]:
        """Serve the recordings, and tell k3s's configuration where."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(self.layout.server_ca))
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_cert_chain(self.directory / "api/serving.crt", self.directory / "api/serving.key")

        async def readyz(_: web.Request) -> web.Response:
            return web.Response(text="ok")

        async def version(_: web.Request) -> web.Response:
            return web.json_response({"gitVersion": VERSION})

        async def node(_: web.Request) -> web.Response:
            return web.json_response(self.node)

        routes = [("GET", "/readyz", readyz), ("GET", "/version", version), ("GET", "/api/v1/nodes/n1", node)]
        async with serving(routes, context) as url:
            port = url.rpartition(":")[2]
            self.configure(f"node-ip: 127.0.0.1\nhttps-listen-port: {port}\n")
            yield


@contextlib.asynccontextmanager
async def running_server(directory: Path) -> AsyncIterator[tuple[Server, Units, FakeSystemd]]:
    """A server whose unit runs and whose API answers."""
    with PrivateBus(directory) as bus, FakeSystemd(directory, bus) as systemd:
        server = Server(directory, bus.address)
        async with server.api(), Units(bus.address) as units:
            systemd.write_unit("k3s.service", server.unit_text())
            await units.daemon_reload()
            job = await units.start_unit("k3s.service")
            assert await job.wait(60) == "done"
            yield server, units, systemd


def tree(directory: Path) -> dict[str, tuple[Any, ...]]:
    """Inode, mode, owner, size, mtime and content of everything below a directory.

    Not ctime: SQLite, run by root, sets the owner of -wal and -shm to what it is already.
    """
    found: dict[str, tuple[Any, ...]] = {}
    for parent, directories, names in os.walk(directory):
        for name in [".", *directories, *names]:
            path = Path(parent, name)
            status = path.lstat()
            content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
            found[str(path)] = (
                status.st_ino,
                status.st_mode,
                status.st_uid,
                status.st_gid,
                status.st_size,
                status.st_mtime_ns,
                content,
            )
    return found
