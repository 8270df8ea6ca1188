"""A stand-in under test: its files, its process, its API, and its data read by other means.

Reading SQLite and etcd here shares no code with the stand-in.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import shutil
import signal
import sqlite3
import ssl
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

HERE = Path(__file__).resolve().parent
RECORDING = HERE.parent / "recordings/k3s-1.22.2"
PATIENCE = float(os.environ.get("PATIENCE", "60"))
"""Seconds a wait may take on a noisy machine; never asserted."""

T = TypeVar("T")

LIVE = (
    "SELECT name, value FROM kine k JOIN (SELECT MAX(id) id FROM kine WHERE name>='/registry/' AND name<'/registry0'"
    " GROUP BY name) m USING(id) WHERE k.deleted=0 ORDER BY id"
)


def wait_for(what: str, get: Callable[[], T | None], patience: float = PATIENCE) -> T:
    deadline = time.monotonic() + patience
    while True:
        found = get()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {patience} s in vain for {what}")
        time.sleep(0.02)


class K3s:
    """One server. ``enter``: words that put a command into its network (networks.py)."""

    def __init__(self, directory: Path, name: str = "n1", address: str = "10.99.0.11", enter: Sequence[str] = ()):
        self.directory, self.name, self.address, self.enter = directory, name, address, list(enter)
        self.data_dir = directory / "data"
        self.server = self.data_dir / "server"
        self.db = self.server / "db"
        self.config = directory / "config.yaml"
        self.drop_in = directory / "config.yaml.d/zz-cluster-init.yaml"
        self.standin_file = directory / "standin.yaml"
        self.process: subprocess.Popen[bytes] | None = None
        self.starts = 0
        self.last_code: int | None = None
        directory.mkdir(exist_ok=True)
        self.config.write_text(yaml.safe_dump({"node-name": name, "node-ip": address, "data-dir": str(self.data_dir)}))
        self.settings(seed=str(RECORDING / "sqlite"))

    def settings(self, **settings: Any) -> None:
        """The stand-in's settings for the next start, all anew."""
        self.standin_file.write_text(yaml.safe_dump(settings))

    def configure(self, **values: Any) -> None:
        """Further keys of k3s's config.yaml."""
        self.config.write_text(yaml.safe_dump({**yaml.safe_load(self.config.read_text()), **values}))

    def cluster_init(self, on: bool = True) -> None:
        self.drop_in.parent.mkdir(exist_ok=True)
        self.drop_in.write_text("cluster-init: true\n") if on else self.drop_in.unlink()

    # --- process ----------------------------------------------------------------------------

    def run(self, *words: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self.enter, HERE / "k3s", *words], env=self._environment(env), capture_output=True, text=True, timeout=120
        )

    def start(self, *arguments: str, env: dict[str, str] | None = None) -> None:
        self.starts += 1
        config = [] if "K3S_CONFIG_FILE" in (env or {}) else ["--config", str(self.config)]
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                [*self.enter, HERE / "k3s", "server", *config, *arguments],
                env=self._environment(env),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def up(self, *arguments: str, env: dict[str, str] | None = None) -> None:
        self.start(*arguments, env=env)
        self.wait_line("k3s is up and running")

    def wait_line(self, text: str) -> None:
        def look() -> bool:
            if text in self.log:
                return True
            assert self.process is None or self.process.poll() is None, f"ended:\n{self.messages}"
            return False

        wait_for(f"{text!r} in the log of {self.name}:\n{self.messages}", look)

    def wait_end(self) -> int:
        assert self.process is not None
        self.last_code = self.process.wait(PATIENCE)
        self.process = None
        return self.last_code

    def stop(self) -> int:
        assert self.process is not None
        self.process.terminate()
        return self.wait_end()

    def kill(self) -> None:
        """SIGKILL, and until the etcd child is gone too."""
        assert self.process is not None
        session = self.process.pid
        self.process.kill()
        self.wait_end()
        wait_for("the end of etcd", lambda: not _etcds_of(session))

    def clean(self) -> None:
        """Nothing stays, whatever happened: also the shim that outlives k3s."""
        if self.process is not None:
            self.process.kill()
            self.wait_end()
        for pid in _pids():
            try:
                here = os.readlink(f"/proc/{pid}/cwd")
            except OSError:
                continue
            if Path(here).is_relative_to(self.directory):
                os.kill(pid, signal.SIGKILL)

    @property
    def log_path(self) -> Path:
        return self.directory / f"log.{self.starts}"

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    @property
    def messages(self) -> str:
        """k3s's own lines without the one for each key."""
        lines = [line for line in self.log.splitlines() if not line.startswith("{")]
        return "\n".join(line for line in lines if "Migrating etcd key" not in line)

    @property
    def migrated_keys(self) -> list[str]:
        return [
            line.split("Migrating etcd key ")[1].rstrip('"')
            for line in self.log.splitlines()
            if "Migrating etcd key " in line
        ]

    def _environment(self, more: dict[str, str] | None) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("K3S_", "NOTIFY_"))}
        return {**kept, "K3S_STANDIN_CONFIG": str(self.standin_file), **(more or {})}

    # --- served -----------------------------------------------------------------------------

    @property
    def password(self) -> str:
        return (self.server / "token").read_text().strip().rpartition(":")[2]

    def http(
        self,
        path: str,
        *,
        method: str = "GET",
        body: Any = None,
        user: str = "",
        password: str = "",
        certificate: str | None = "client-admin",
        content_type: str = "application/json",
        port: int = 6443,
        host: str = "",
        ca: str = "server-ca",
        timeout: float = PATIENCE,
    ) -> tuple[int, Any]:
        """(status, JSON or text)."""
        tls = self.server / "tls"
        context = ssl.create_default_context(cafile=str(tls / f"{ca}.crt"))
        if certificate:
            context.load_cert_chain(tls / f"{certificate}.crt", tls / f"{certificate}.key")
        headers = {"Content-Type": content_type}
        if user:
            basic = base64.b64encode(f"{user}:{password or self.password}".encode()).decode()
            headers["Authorization"] = f"Basic {basic}"
        connection = http.client.HTTPSConnection(host or self.address, port, timeout=timeout, context=context)
        try:
            connection.request(method, path, None if body is None else json.dumps(body).encode(), headers)
            response = connection.getresponse()
            content = response.read().decode()
        finally:
            connection.close()
        try:
            return response.status, json.loads(content)
        except ValueError:
            return response.status, content

    def node(self, name: str = "") -> dict[str, Any]:
        status, thing = self.http(f"/api/v1/nodes/{name or self.name}")
        assert status == 200, thing
        return dict(thing)

    @property
    def roles(self) -> set[str]:
        prefix = "node-role.kubernetes.io/"
        return {label.removeprefix(prefix) for label in self.node()["metadata"]["labels"] if label.startswith(prefix)}

    def gateway(self, path: str, body: dict[str, Any], *, port: int = 2379, host: str = "") -> dict[str, Any]:
        """etcd's JSON gateway; from outside the node's network when ``host`` is not given and ``enter`` is."""
        status, answer = self.http(
            f"/v3/{path}", method="POST", body=body, certificate="etcd/client", ca="etcd/server-ca", port=port,
            host=host or (self.address if self.enter else "127.0.0.1"),
        )  # fmt: skip
        assert status == 200, answer
        return dict(answer)

    # --- data -------------------------------------------------------------------------------

    def sqlite_rows(self, state_db: Path | None = None, *, wal: bool = True) -> dict[str, bytes]:
        """Live rows in id order, from a copy: the originals are not touched."""
        source = state_db or self.db / "state.db"
        with tempfile.TemporaryDirectory() as name:
            shutil.copyfile(source, Path(name) / "copy.db")
            beside = self.db / "state.db-wal"
            if wal and beside.exists():
                shutil.copyfile(beside, Path(name) / "copy.db-wal")
            database = sqlite3.connect(Path(name) / "copy.db")
            try:
                return dict(database.execute(LIVE).fetchall())
            finally:
                database.close()

    def etcd_keys(self, prefix: str = "/registry/", revision: int = 0, port: int = 2379) -> dict[str, dict[str, Any]]:
        end = prefix[:-1] + chr(ord(prefix[-1]) + 1)
        body = {"key": _b64(prefix), "range_end": _b64(end), "revision": str(revision)}
        entries = self.gateway("kv/range", body, port=port).get("kvs", [])
        found = {}
        for entry in entries:
            entry["value"] = base64.b64decode(entry.get("value", ""))
            found[base64.b64decode(entry["key"]).decode()] = entry
        return found

    def etcd_keys_or_none(self, count: int) -> bool:
        """Whether etcd answers already and has this many keys."""
        try:
            return len(self.etcd_keys()) == count
        except OSError:
            return False

    def revision(self, port: int = 2379) -> int:
        return int(self.gateway("maintenance/status", {}, port=port)["header"]["revision"])

    def etcd_at_end_of_copy(self, *, port: int = 2379) -> dict[str, bytes]:
        """Keys and values at the revision before the bootstrap key was made (design, "Migrate" 8)."""
        (bootstrap,) = self.etcd_keys("/bootstrap/", port=port).values()
        revision = int(bootstrap["create_revision"]) - 1
        return {key: entry["value"] for key, entry in self.etcd_keys(revision=revision, port=port).items()}


def _b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _etcds_of(session: int) -> list[int]:
    """Living etcd processes of a session."""
    found = []
    for pid in _pids():
        try:
            fields = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            continue
        name, _, rest = fields.rpartition(")")
        if name.endswith("(etcd") and rest.split()[0] not in "ZX" and int(rest.split()[3]) == session:
            found.append(pid)
    return found
