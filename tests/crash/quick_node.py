"""A k3s server without a container: the stand-in k3s under ``fake_systemd1.py`` on a private dbus-daemon, and the
agent as a process of its own. Seconds per life instead of a boot; real SQLite, real etcd, real D-Bus, real signals.

Use inside ``own_network`` (tests/standin/networks.py), so that its ports are its own. The node belongs to the
thread that made it: the kernel ends its processes with that thread.
"""

from __future__ import annotations

import atexit
import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import yaml

from tests.crash import datastores
from tests.dbus.file_journal import write_journalctl
from tests.dbus.harness import FakeSystemd, PrivateBus, die_with_parent, wait_until

REPOSITORY = Path(__file__).resolve().parents[2]
STANDIN = REPOSITORY / "tests/standin/k3s"
RESCUE = REPOSITORY / "k3s_ha_agent/rescue.py"
PYTHON = "/usr/bin/python3"
ADDRESS = "10.99.0.11"
K3S, RESCUE_SERVICE, RESCUE_TIMER = "k3s.service", "k3s-ha-agent-rescue.service", "k3s-ha-agent-rescue.timer"
GATE, DROP_IN = "k3s.service.d/zz-k3s-ha-agent-gate.conf", "config.yaml.d/zz-k3s-ha-agent.yaml"

K3S_UNIT = f"""[Service]
Type=notify
Environment=K3S_STANDIN_CONFIG={{root}}/standin.yaml
Environment=PYTHONPYCACHEPREFIX={{bytecode}}
ExecStart={STANDIN} server --data-dir {{root}}/k3s --config {{root}}/etc/config.yaml --node-name n1 --node-ip {ADDRESS}
KillMode=process
TimeoutStartSec=0
Restart=always
RestartSec=1s
"""
RESCUE_UNIT = f"""[Service]
Type=oneshot
Environment=PATH={{root}}/bin:/usr/bin:/bin
ExecStart={{root}}/bin/in-boot {PYTHON} -I -S {{program}} {{root}}/state {{grace}}
"""
# Under one boot id, which a test may change: as containers do, by a file mounted over the kernel's.
IN_BOOT = """#!/bin/sh
exec unshare --mount --propagation slave sh -c \\
  'mount --bind "$0" /proc/sys/kernel/random/boot_id && exec "$@"' {root}/boot_id "$@"
"""
SETTINGS: Mapping[str, object] = {
    "stability_window": "200ms",
    "fsync_warn": "5s",
    "fsync_refuse": "10s",
    "role_timeout": "30s",
    "undo_timeout": "90s",
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
    """One server. ``faults`` and ``speed`` are the stand-in's; ``grace``: seconds the rescue leaves a hung agent."""

    def __init__(
        self,
        *,
        faults: Mapping[str, object] | None = None,
        speed: Mapping[str, object] | None = None,
        settings: Mapping[str, object] | None = None,
        version: str = "v1.22.2+k3s1",
        grace: float = 3.0,
        root: Path | None = None,
    ) -> None:
        """``root``: where it lies; what a node left there is taken over."""
        self.root = root or Path(tempfile.mkdtemp(prefix="k3s-ha-quick-"))
        self.data = self.root / "k3s"
        self.db = self.data / "server/db"
        self.state = self.root / "state"
        self.trace = self.root / "trace"
        self.worker = self.root / "worker"
        for name in ("etc", "state", "run", "bin"):
            (self.root / name).mkdir(mode=0o700, parents=True, exist_ok=True)
        self.boot()
        self.version = version
        self.grace = grace
        self.speed = {"role_delay": 0.1, "heartbeat_interval": 0, "controller_tick": 0.05, **(speed or {})}
        self.change_faults(faults or {})
        (self.root / "etc/config.yaml").write_text('write-kubeconfig-mode: "0600"\n')
        self.bus = PrivateBus(self.root)
        self.systemd = FakeSystemd(self.root, self.bus)
        self.gate, self.drop_in = self.systemd.units / GATE, self.root / "etc" / DROP_IN
        self.systemd.write_unit(K3S, K3S_UNIT.format(root=self.root, bytecode=shared_bytecode()))
        self.install_rescue(RESCUE)
        self.config = self.root / "config.yaml"
        places = {
            "data_dir": self.data,
            "k3s_config": self.root / "etc/config.yaml",
            "systemd_dir": self.systemd.units,
            "state_dir": self.state,
            "runtime_dir": self.root / "run",
        }
        chosen = {k: str(v) for k, v in places.items()} | {"dbus_address": self.bus.address, "socket_group": "root"}
        self.config.write_text(yaml.safe_dump({**SETTINGS, **chosen, **(settings or {})}))
        write_journalctl(self.root / "bin", self.systemd.log)
        shim = Path(__file__).with_name("systemctl.py")
        self._program("systemctl", f'#!/bin/sh\nFAKE_PRIVATE="{self.systemd.private}" exec {PYTHON} {shim} "$@"\n')
        self._program("in-boot", IN_BOOT.format(root=self.root))
        self.agent: subprocess.Popen[bytes] | None = None

    def _program(self, name: str, text: str) -> None:
        program = self.root / "bin" / name
        program.write_text(text)
        program.chmod(0o755)

    def install_rescue(self, program: Path) -> None:
        text = RESCUE_UNIT.format(root=self.root, program=program, grace=self.grace)
        self.systemd.write_unit(RESCUE_SERVICE, text)

    def boot(self) -> None:
        """Another boot id, for whatever is started from now on."""
        (self.root / "boot_id").write_text(f"{uuid.uuid4()}\n")

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

    def try_systemctl(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([self.root / "bin/systemctl", *words], capture_output=True, text=True, check=False)

    def systemctl(self, *words: str) -> str:
        done = self.try_systemctl(*words)
        assert done.returncode == 0, f"systemctl {' '.join(words)}: {done.stderr}"
        return done.stdout.strip()

    def k3s_state(self) -> str:
        return self.systemctl("show", "--property=ActiveState", K3S)

    def kill_k3s(self) -> bool:
        """SIGKILL for its main process, as the OOM killer sends it; False when there was none."""
        pid = int(self.systemd.unit(K3S).get("main_pid", 0))
        if not pid:
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        return True

    def on_etcd(self) -> bool:
        return (self.db / "etcd/member/wal").exists()

    def keys(self) -> datastores.Keys:
        """The live keys of the datastore k3s is on."""
        return self.etcd_keys() if self.on_etcd() else self.sqlite_keys()

    def sqlite_keys(self, path: Path | None = None) -> datastores.Keys:
        return datastores.sqlite_keys(path or self.db / "state.db")

    def etcd_keys(self) -> datastores.Keys:
        return datastores.etcd_keys(self.data / "server/tls/etcd")

    def create_configmap(
        self, name: str, namespace: str = "default", data: Mapping[str, str] = MappingProxyType({"a": "b"})
    ) -> bytes:
        """Write through the API server, as anybody does; the key it has in the datastore."""
        tls = self.data / "server/tls"
        context = ssl.create_default_context(cafile=str(tls / "server-ca.crt"))
        context.load_cert_chain(str(tls / "client-admin.crt"), str(tls / "client-admin.key"))
        url = f"https://127.0.0.1:6443/api/v1/namespaces/{namespace}/configmaps"
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": dict(data)}
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(url, json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=30, context=context) as answer:
            assert answer.status in (200, 201), answer.status
        return f"/registry/configmaps/{namespace}/{name}".encode()

    # --- the agent -------------------------------------------------------------------------------

    def start_agent(
        self, die: int | str | None = None, *, wait: bool = True, wrap: Sequence[str] = (), one_worker: bool = False
    ) -> None:
        """Start it; ``wait``: until its API answers or it has died. ``die``, ``one_worker``: see ``tests.crash.agent``.
        ``wrap``: words of a program that runs it."""
        command = [*wrap, PYTHON, "-m", "tests.crash.agent", str(self.config), str(self.trace)]
        if die is not None:
            command.append(str(die))
        path = f"{self.root}/bin:{os.environ['PATH']}"
        environment = {**os.environ, "PATH": path, "PYTHONPATH": str(REPOSITORY)}
        if one_worker:
            self.worker.unlink(missing_ok=True)
            environment["ONE_WORKER"] = str(self.worker)
        with (self.root / "agent.log").open("ab") as log:
            self.agent = subprocess.Popen(
                [str(self.root / "bin/in-boot"), *command],
                cwd="/", env=environment, stdout=log, stderr=log, preexec_fn=die_with_parent,
            )  # fmt: skip
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
            self.agent.wait(90)

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

    def finish(self, operation: str | None) -> dict[str, Any]:
        """Wait for the end of an operation; what the API says of it then."""
        status, answer = self.api("GET", f"/v1/operations/{operation}/wait?timeout=300s", timeout=310)
        assert status == 200, (status, answer)
        return dict(answer)

    def records(self) -> list[dict[str, Any]]:
        """The records on disk, oldest first; each must be readable at any moment."""
        paths = sorted(self.state.glob("operations/*/record.json"))
        return [json.loads(path.read_text()) for path in paths]

    def record(self, operation: str) -> dict[str, Any]:
        record: dict[str, Any] = json.loads((self.state / f"operations/{operation}/record.json").read_text())
        return record

    def run_rescue(
        self, program: Path = RESCUE, *, wrap: Sequence[str] = (), path: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """The rescue as a child of the test, not of systemd."""
        environment = {"PATH": path or f"{self.root}/bin:/usr/bin:/bin"}
        command = [str(self.root / "bin/in-boot"), *wrap, PYTHON, "-I", "-S", str(program)]
        command += [str(self.state), str(self.grace)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)

    def fire_rescue(self) -> bool:
        """The rescue as its timer starts it; whether it said that all is well."""
        self.try_systemctl("reset-failed", RESCUE_SERVICE)
        self.try_systemctl("start", RESCUE_SERVICE)  # a oneshot is not active afterwards
        return str(self.systemd.unit(RESCUE_SERVICE).get("result")) == "success"

    # --- life --------------------------------------------------------------------------------------

    def start(self) -> None:
        self.bus.start()
        self.systemd.start()
        self.systemctl("start", K3S)

    def power_fails(self) -> None:
        """Every process of the node ends at once; what is on disk stays."""
        if self.agent is not None and self.agent.poll() is None:
            self.agent.kill()
            self.agent.wait()
        self.systemd.stop()
        self.bus.stop()
        self.boot()

    def power_returns(self) -> None:
        """Boot as systemd would: the agent before k3s, k3s enabled, whatever comes of its start."""
        self.bus.start()
        self.systemd.start()
        self.start_agent()
        self.try_systemctl("start", "--no-block", K3S)

    def diagnosis(self) -> str:
        log = (self.root / "agent.log").read_text()[-6000:] if (self.root / "agent.log").exists() else ""
        k3s = "\n".join(m for m in self.systemd.messages(K3S) if "Migrating etcd key" not in m)[-3000:]
        rescue = "\n".join(self.systemd.messages(RESCUE_SERVICE))[-3000:]
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


def shared_bytecode() -> str:
    """A directory for compiled modules that the many short lives share: compiling costs more than running."""
    if "K3S_HA_AGENT_TESTS_BYTECODE" not in os.environ:
        directory = tempfile.mkdtemp(prefix="k3s-ha-quick-bytecode-")
        atexit.register(shutil.rmtree, directory, ignore_errors=True)
        os.environ["K3S_HA_AGENT_TESTS_BYTECODE"] = os.environ["PYTHONPYCACHEPREFIX"] = directory
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    return os.environ["K3S_HA_AGENT_TESTS_BYTECODE"]


N = TypeVar("N", bound=QuickNode)


@contextlib.contextmanager
def quick_node(*, configmaps: int = 20, make: type[N] = QuickNode, **options: Any) -> Iterator[N]:  # type: ignore[assignment]
    node = make(**options)
    try:
        node.seed(configmaps)
        node.start()
        yield node
    except BaseException:
        sys.stderr.write(node.diagnosis())
        raise
    finally:
        node.close()


def wait_for(condition: Callable[[], Any], what: str, timeout: float = 300.0) -> Any:
    until = time.monotonic() + timeout
    while time.monotonic() < until:
        found = condition()
        if found:
            return found
        time.sleep(0.03)
    raise AssertionError(f"not seen within {timeout:g} s: {what}")
