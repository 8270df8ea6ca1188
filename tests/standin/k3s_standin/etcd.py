"""The etcd of this server: a real process with client certificates, its configuration file as k3s
writes it, and the name file. It dies with this process (PDEATHSIG).

``db/etcd/config`` shows what k3s would run. What really runs is read from a memory file, because
heartbeat and election are the stand-in's (settings.Speed), and because etcd 3.4 cannot serve the
gateway apart from gRPC: from 2023-09 on (4.3) the process serves both on 127.0.0.1:2382 and
front.py passes gRPC on from 2379.
"""

from __future__ import annotations

import contextlib
import errno
import http.client
import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from . import log
from .flags import Flags
from .front import Front
from .gateway import Gateway, GatewayError
from .pki import write
from .process import spawn_bound
from .settings import Standin

# What etcd says last when it is asked for its status while its member is removed.
PANIC = b"failed to find local ID in cluster members"


class Etcd:
    """One member. ``start`` is called in the main thread."""

    def __init__(self, server: Path, node_name: str, address: str, standin: Standin, flags: Flags) -> None:
        self.server, self.node_name, self.address = server, node_name, address
        self.directory = server / "db/etcd"
        self._standin, self._flags = standin, flags
        self._process: subprocess.Popen[bytes] | None = None
        self._words = os.memfd_create("etcd-log", os.MFD_CLOEXEC)
        self._front: Front | None = None
        self.gateway = Gateway(server / "tls", "127.0.0.1", 2382 if standin.version.http_on_2382 else 2379)

    @property
    def initialized(self) -> bool:
        """The one thing that decides for etcd ("ten facts" 1)."""
        return (self.directory / "member/wal").is_dir()

    @property
    def name(self) -> str:
        return (self.directory / "name").read_text().strip()

    def ensure_name(self) -> str:
        """``<nodename>-<8 hex>``, mode 0600 (4.1)."""
        path = self.directory / "name"
        if not path.exists():
            self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            write(path, f"{self._standin.host or self.node_name}-{secrets.token_hex(4)}".encode())
        return self.name

    def start(self, *, initial_cluster: str = "", existing: bool = False) -> None:
        """Start the process; returns when member/wal exists, perhaps before there is a leader."""
        name = self.ensure_name()
        shown = self._configuration(name, initial_cluster, existing)
        import yaml

        write(self.directory / "config", yaml.safe_dump(shown, sort_keys=True).encode())
        real = dict(shown)
        real["heartbeat-interval"] = self._standin.speed.heartbeat_ms
        real["election-timeout"] = self._standin.speed.election_ms
        quota = self._standin.faults.quota_backend_bytes
        if quota:
            real["quota-backend-bytes"] = quota
        wait_free([(self.address, 2380), (self.address, 2379), ("127.0.0.1", 2379), ("127.0.0.1", 2381)])
        if real.pop("listen-client-http-urls", None):
            real["listen-client-urls"] = "https://127.0.0.1:2382"
            self._front = Front(self.server / "tls", [self.address, "127.0.0.1"], 2379, 2382)
            self._front.start()
        self._process = run(real, words=self._words)
        log.at_exit(self.stop)
        deadline = time.monotonic() + 30
        while not self.initialized:
            self.check()
            if time.monotonic() > deadline:
                log.fatal("starting kubernetes: preparing server: start managed database: etcd made no wal")
            time.sleep(0.002)

    def _configuration(self, name: str, initial_cluster: str, existing: bool) -> dict[str, Any]:
        tls = self.server / "tls/etcd"
        peer, client = f"https://{self.address}:2380", f"https://{self.address}:2379"
        shown: dict[str, Any] = {
            "name": name,
            "data-dir": str(self.directory),
            "advertise-client-urls": client,
            "initial-advertise-peer-urls": peer,
            "initial-cluster": initial_cluster or f"{name}={peer}",
            "initial-cluster-state": "existing" if existing else "new",
            "listen-client-urls": ",".join(dict.fromkeys([client, "https://127.0.0.1:2379"])),
            "listen-peer-urls": peer,
            "listen-metrics-urls": "http://127.0.0.1:2381",
            "client-transport-security": security(tls, "server-client", "server-ca"),
            "peer-transport-security": security(tls, "peer-server-client", "peer-ca"),
            "heartbeat-interval": 500,
            "election-timeout": 5000,
            "logger": "zap",
            "log-outputs": ["stderr"],
        }
        if self._standin.version.http_on_2382:
            shown["listen-client-http-urls"] = "https://127.0.0.1:2382"
        for argument in self._flags.all("etcd-arg"):
            key, _, value = argument.lstrip("-").partition("=")
            shown[key] = int(value) if value.isdigit() else value
        return shown

    def wait_leader(self) -> None:
        """Until etcd serves linearizable reads; a learner never does. Without a limit, like k3s (10)."""
        wait_serving(self.gateway, self.check)

    @property
    def ended(self) -> bool:
        return self._process is not None and self._process.poll() is not None

    def check(self) -> None:
        """etcd is a part of k3s: when it ends, k3s ends."""
        if self._process is not None and self.ended:
            log.fatal(f"etcd ended with {self._process.returncode}")

    def removed(self) -> bool:
        """The process ended by itself because its member was removed.

        etcd exits 0 then; or it panics, when somebody asks for its status in that moment (4.9, etcd-io/etcd#21966).
        """
        if self._process is None or not self.ended:
            return False
        return self._process.returncode == 0 or PANIC in os.pread(self._words, os.fstat(self._words).st_size, 0)

    @property
    def running(self) -> bool:
        return self._process is not None

    def stop(self) -> None:
        """Ask etcd to end, as an embedded one does on SIGTERM."""
        if self._process is None:
            return
        end(self._process)
        self._process = None


def wait_free(places: Sequence[tuple[str, int]], patience: float = 10.0) -> None:
    """Until the etcd of a killed predecessor is gone; k3s is one process and need not wait for it."""
    deadline = time.monotonic() + patience
    for place in places:
        while time.monotonic() < deadline:
            with socket.socket(socket.AF_INET6 if ":" in place[0] else socket.AF_INET) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind(place)
                    break
                except OSError as error:
                    if error.errno != errno.EADDRINUSE:
                        break
            time.sleep(0.01)


def security(tls: Path, pair: str, ca: str) -> dict[str, Any]:
    return {
        "cert-file": str(tls / f"{pair}.crt"),
        "key-file": str(tls / f"{pair}.key"),
        "trusted-ca-file": str(tls / f"{ca}.crt"),
        "client-cert-auth": True,
    }


def run(configuration: Mapping[str, Any], *, quiet: bool = False, words: int | None = None) -> subprocess.Popen[bytes]:
    """etcd with this configuration, which leaves no file behind; its log goes to ``words`` too, a file of memory."""
    import yaml

    etcd = shutil.which("etcd") or "/usr/bin/etcd"
    fd = os.memfd_create("etcd-config", 0)
    # Unlike 3.5, etcd 3.4 serves no gateway by default when it reads a configuration file.
    whole = {"enable-grpc-gateway": True, **configuration}
    fds = [fd]
    if words is not None:
        whole["log-outputs"] = [*whole["log-outputs"], f"/proc/self/fd/{words}"]
        fds.append(words)
    try:
        os.write(fd, yaml.safe_dump(whole).encode())
        return spawn_bound(
            [etcd, "--config-file", f"/proc/self/fd/{fd}"],
            pass_fds=fds,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL if quiet else None,
        )
    finally:
        os.close(fd)


def wait_serving(gateway: Gateway, check: Any) -> None:
    while True:
        check()
        try:
            gateway.call("kv/range", {"key": "AA==", "count_only": True})
            return
        except (OSError, http.client.HTTPException, GatewayError, ValueError):
            time.sleep(0.005)


def end(process: subprocess.Popen[bytes], patience: float = 5.0) -> None:
    """Within ``patience``, and a second after it by SIGKILL.

    Never without a limit: it also runs in a signal handler, which may have interrupted a ``poll`` of this very
    process, and then waits for a lock that is not released before the handler ends.
    """
    process.terminate()
    try:
        process.wait(patience)
    except subprocess.TimeoutExpired:
        process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(1.0)
