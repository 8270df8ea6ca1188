"""A real etcd with client certificates, its files where k3s has them."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from k3s_ha_agent.k3s.layout import Layout
from tests.unit.k3s.pki import Authority

START_SECONDS = 60
_PR_SET_PDEATHSIG = 1


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return [s.getsockname()[1] for s in sockets]


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


@contextlib.contextmanager
def running_etcd(data_dir: Path, *options: str) -> Iterator[Layout]:
    """An etcd serving on loopback, described by ``db/etcd/config`` and ``tls/etcd`` of the layout."""
    layout = Layout(data_dir)
    authority = Authority("etcd-server-ca")
    server_cert, server_key = authority.issue(layout.tls / "etcd", "server-client")
    authority.issue(layout.tls / "etcd", "client")
    layout.etcd_server_ca.write_bytes(authority.pem)
    layout.etcd.mkdir(parents=True, mode=0o700)
    for attempt in range(5):
        client, peer = free_ports(2)
        arguments = [
            "/usr/bin/etcd",
            "--name=n1-test",
            f"--data-dir={layout.etcd}",
            f"--listen-client-urls=https://127.0.0.1:{client}",
            f"--advertise-client-urls=https://127.0.0.1:{client}",
            f"--listen-peer-urls=http://127.0.0.1:{peer}",
            f"--initial-advertise-peer-urls=http://127.0.0.1:{peer}",
            f"--initial-cluster=n1-test=http://127.0.0.1:{peer}",
            "--client-cert-auth",
            f"--trusted-ca-file={layout.etcd_server_ca}",
            f"--cert-file={server_cert}",
            f"--key-file={server_key}",
            "--logger=zap",
            "--log-outputs=stderr",
            *options,
        ]
        log = data_dir / f"etcd-{attempt}.log"
        environment = {k: v for k, v in os.environ.items() if not k.startswith("ETCD")}
        with log.open("wb") as stderr:
            process = subprocess.Popen(
                arguments, stdout=stderr, stderr=stderr, env=environment, preexec_fn=_die_with_parent
            )
        try:
            if _serving(process, log):
                # In the form k3s writes it (recordings, etcd-config.yaml).
                layout.etcd_config.write_text(
                    f"listen-client-urls: https://10.99.0.11:1,https://127.0.0.1:{client}\ndata-dir: {layout.etcd}\n"
                )
                yield layout
                return
        finally:
            process.kill()
            process.wait()
    raise AssertionError(f"etcd does not start: {log.read_text()[-2000:]}")


def _serving(process: subprocess.Popen[bytes], log: Path) -> bool:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        if b"serving client traffic securely" in log.read_bytes():
            return True
        time.sleep(0.05)
    return False
