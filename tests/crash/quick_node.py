"""A k3s server without a container: the stand-in k3s under ``fake_systemd1.py`` on a private dbus-daemon, and the
agent as a process of its own. Seconds per life instead of a boot; real SQLite, real etcd, real D-Bus, real signals.

Use inside ``own_network`` (tests/standin/networks.py), so that its ports are its own.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.dbus.file_journal import write_journalctl
from tests.dbus.harness import FakeSystemd, PrivateBus, die_with_parent, wait_until

REPOSITORY = Path(__file__).resolve().parents[2]
STANDIN = REPOSITORY / "tests/standin/k3s"
RESCUE = REPOSITORY / "k3s_ha_agent/rescue.py"
PYTHON = "/usr/bin/python3"
ADDRESS = "10.99.0.11"
WRITTEN_BY_ITSELF = ("/registry/leases/", "/registry/masterleases/", "/registry/minions/", "/registry/events/")
"""What a running k3s changes without being asked."""

K3S_UNIT = f"""[Service]
Type=notify
Environment=K3S_STANDIN_CONFIG={{root}}/standin.yaml
ExecStart={STANDIN} server --data-dir {{root}}/k3s --config {{root}}/etc/config.yaml --node-name n1 --node-ip {ADDRESS}
KillMode=process
TimeoutStartSec=0
Restart=always
RestartSec=1s
"""
RESCUE_UNIT = f"""[Service]
Type=oneshot
Environment=PATH={{root}}/bin:/usr/bin:/bin
ExecStart={PYTHON} -I -S {RESCUE} {{root}}/state
"""
SETTINGS: Mapping[str, object] = {
    "stability_window": "200ms",
    "fsync_warn": "5s",
    "fsync_refuse": "10s",
    "role_timeout": "20s",
    "undo_timeout": "60s",
}


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class QuickNode:
    """One server. ``faults`` and ``speed`` are the stand-in's."""

    def __init__(
        self,
        *,
        faults: Mapping[str, object] | None = None,
        speed: Mapping[str, object] | None = None,
        settings: Mapping[str, object] | None = None,
        version: str = "v1.22.2+k3s1",
    ) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="k3s-ha-quick-"))
        self.data = self.root / "k3s"
        self.db = self.data / "server/db"
        self.state = self.root / "state"
        self.trace = self.root / "trace"
        for name in ("etc", "state", "run", "bin"):
            (self.root / name).mkdir(mode=0o700)
        self.version = version
        self.speed = {"role_delay": 0.1, "heartbeat_interval": 0, "controller_tick": 0.05, **(speed or {})}
        self.change_faults(faults or {})
        (self.root / "etc/config.yaml").write_text('write-kubeconfig-mode: "0600"\n')
        self.bus = PrivateBus(self.root)
        self.systemd = FakeSystemd(self.root, self.bus)
        self.systemd.write_unit("k3s.service", K3S_UNIT.format(root=self.root))
        self.systemd.write_unit("k3s-ha-agent-rescue.service", RESCUE_UNIT.format(root=self.root))
        self.config = self.root / "config.yaml"
        places = {
            "data_dir": self.data,
            "k3s_config": self.root / "etc/config.yaml",
            "systemd_dir": self.systemd.units,
            "state_dir": self.state,
            "runtime_dir": self.root / "run",
            "root": self.root,
        }
        chosen = {k: str(v) for k, v in places.items()} | {"dbus_address": self.bus.address, "socket_group": "root"}
        self.config.write_text(yaml.safe_dump({**SETTINGS, **chosen, **(settings or {})}))
        write_journalctl(self.root / "bin", self.systemd.log)
        self._write_systemctl()
        self.agent: subprocess.Popen[bytes] | None = None

    def _write_systemctl(self) -> None:
        program = self.root / "bin/systemctl"
        shim = Path(__file__).with_name("systemctl.py")
        program.write_text(f'#!/bin/sh\nFAKE_BUS="{self.bus.address}" exec {PYTHON} {shim} "$@"\n')
        program.chmod(0o755)

    def change_faults(self, faults: Mapping[str, object]) -> None:
        """The stand-in's faults from its next start on."""
        self.standin(faults=dict(faults), speed=self.speed, version=self.version)

    def standin(self, **config: object) -> None:
        (self.root / "standin.yaml").write_text(yaml.safe_dump(config))

    # --- k3s -----------------------------------------------------------------------------------

    def seed(self, configmaps: int = 20) -> None:
        command = [str(STANDIN), "standin-seed", "--data-dir", str(self.data), "--configmaps", str(configmaps)]
        environment = {**os.environ, "K3S_STANDIN_CONFIG": str(self.root / "standin.yaml")}
        subprocess.run([*command, "--updates", "3", "--deletes", "2"], check=True, env=environment, capture_output=True)

    def systemctl(self, *words: str) -> str:
        done = subprocess.run([self.root / "bin/systemctl", *words], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"systemctl {' '.join(words)}: {done.stderr}"
        return done.stdout.strip()

    def on_etcd(self) -> bool:
        return (self.db / "etcd/member/wal").exists()

    def sqlite_keys(self, path: Path | None = None) -> dict[bytes, bytes]:
        """Live keys of SQLite with its WAL, read from a copy."""
        source = path or self.db / "state.db"
        with tempfile.TemporaryDirectory() as directory:
            for suffix in ("", "-wal"):
                with contextlib.suppress(FileNotFoundError):
                    shutil.copyfile(f"{source}{suffix}", f"{directory}/state.db{suffix}")
            connection = sqlite3.connect(f"{directory}/state.db")
            try:
                rows = connection.execute(
                    "SELECT name, value FROM kine WHERE id IN (SELECT MAX(id) FROM kine GROUP BY name) AND deleted = 0"
                ).fetchall()
            finally:
                connection.close()
        return {name.encode(): bytes(value) for name, value in rows if name.startswith("/registry/")}

    def etcd_keys(self) -> dict[bytes, bytes]:
        import base64

        tls = self.data / "server/tls/etcd"
        options = [f"--cacert={tls}/server-ca.crt", f"--cert={tls}/client.crt", f"--key={tls}/client.key"]
        done = subprocess.run(
            ["etcdctl", "--endpoints=https://127.0.0.1:2379", *options, "get", "--prefix", "/registry/", "-w", "json"],
            capture_output=True, text=True, check=True, env={**os.environ, "ETCDCTL_API": "3"},
        )  # fmt: skip
        pairs = json.loads(done.stdout).get("kvs", ())
        return {base64.b64decode(p["key"]): base64.b64decode(p.get("value", "")) for p in pairs}

    # --- the agent -------------------------------------------------------------------------------

    def start_agent(self, die_at: int | None = None, *, wait: bool = True) -> None:
        """Start it; ``wait``: until its API answers or it has died."""
        command = [PYTHON, "-m", "tests.crash.agent", str(self.config), str(self.trace)]
        if die_at is not None:
            command.append(str(die_at))
        path = f"{self.root}/bin:{os.environ['PATH']}"
        environment = {**os.environ, "PATH": path, "PYTHONPATH": str(REPOSITORY)}
        with (self.root / "agent.log").open("ab") as log:
            self.agent = subprocess.Popen(
                command, cwd="/", env=environment, stdout=log, stderr=log, preexec_fn=die_with_parent
            )
        if wait:
            wait_until(lambda: not self.agent_lives() or self._ready(), "the agent answers or has died", 60)

    def _ready(self) -> bool:
        try:
            return self.api("GET", "/readyz")[0] == 200
        except OSError:
            return False

    def agent_lives(self) -> bool:
        return self.agent is not None and self.agent.poll() is None

    def stop_agent(self, number: int = signal.SIGTERM) -> None:
        if self.agent is not None and self.agent.poll() is None:
            self.agent.send_signal(number)
        if self.agent is not None:
            self.agent.wait(60)

    def api(self, method: str, path: str, body: object = None, timeout: float = 60.0) -> tuple[int, Any]:
        connection = UnixConnection(self.root / "run/api.sock", timeout)
        try:
            headers = {"Content-Type": "application/json"} if body is not None else {}
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            text = answer.read()
            is_json = "json" in (answer.getheader("Content-Type") or "")
            return answer.status, json.loads(text) if is_json else text
        except http.client.HTTPException as error:
            raise OSError(str(error)) from error
        finally:
            connection.close()

    def begin(self, kind: str, body: Mapping[str, object]) -> str | None:
        """Ask for an operation; None when the agent died over the request."""
        try:
            status, answer = self.api("POST", f"/v1/{kind}", body)
        except OSError:
            return None
        assert status == 202, (status, answer)
        return str(answer["id"])

    def records(self) -> list[dict[str, Any]]:
        """The records on disk, oldest first; each must be readable at any moment."""
        paths = sorted(self.state.glob("operations/*/record.json"))
        return [json.loads(path.read_text()) for path in paths]

    def run_rescue(self) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": f"{self.root}/bin:/usr/bin:/bin"}
        command = [PYTHON, "-I", "-S", str(RESCUE), str(self.state)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)

    # --- life --------------------------------------------------------------------------------------

    def start(self) -> None:
        self.bus.start()
        self.systemd.start()
        self.systemctl("start", "k3s.service")

    def diagnosis(self) -> str:
        log = (self.root / "agent.log").read_text()[-6000:] if (self.root / "agent.log").exists() else ""
        k3s = "\n".join(m for m in self.systemd.messages("k3s.service") if "Migrating etcd key" not in m)[-3000:]
        rescue = "\n".join(self.systemd.messages("k3s-ha-agent-rescue.service"))
        return f"--- agent\n{log}\n--- k3s\n{k3s}\n--- rescue\n{rescue}\n--- trace\n{self.trace_text()[-3000:]}"

    def trace_text(self) -> str:
        return self.trace.read_text() if self.trace.exists() else ""

    def close(self) -> None:
        if self.agent is not None and self.agent.poll() is None:
            self.agent.kill()
            self.agent.wait()
        self.systemd.stop()
        self.bus.stop()
        shutil.rmtree(self.root, ignore_errors=True)


@contextlib.contextmanager
def quick_node(*, configmaps: int = 20, **options: Any) -> Iterator[QuickNode]:
    node = QuickNode(**options)
    try:
        node.seed(configmaps)
        node.start()
        yield node
    except BaseException:
        sys.stderr.write(node.diagnosis())
        raise
    finally:
        node.close()


def wait_for(condition: Callable[[], Any], what: str, timeout: float = 120.0) -> Any:
    until = time.monotonic() + timeout
    while time.monotonic() < until:
        found = condition()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError(f"not seen within {timeout:g} s: {what}")
