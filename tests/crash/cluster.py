"""Several quick nodes that reach each other: one network namespace each, joined by a bridge.

    with own_network(), cluster(3) as (n1, n2, n3): …

The first one is a server on SQLite; the others have k3s installed, disabled, and nothing in their data dir.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.crash.quick_node import STANDIN, QuickNode, shared_bytecode
from tests.standin.networks import machines

_libc = ctypes.CDLL(None, use_errno=True)
_NEWNET = 0x40000000
CALM = {"heartbeat_ms": 50, "election_ms": 500, "promote_tick": 0.5, "learner_stalled": 20.0}
"""etcd's timing with which a cluster is stable on a busy machine (tests/standin/README.md)."""

UNIT = f"""[Unit]
Description=k3s
[Service]
Type=notify
Environment=K3S_STANDIN_CONFIG={{root}}/standin.yaml
Environment=PYTHONPYCACHEPREFIX={{bytecode}}
ExecStart={STANDIN} server --data-dir {{root}}/k3s --config {{root}}/etc/config.yaml --node-name {{name}} \\
  --node-ip {{address}}
KillMode=process
TimeoutStartSec=0
Restart=always
RestartSec=1s
[Install]
WantedBy=multi-user.target
"""


class ClusterNode(QuickNode):
    """A quick node in a network namespace of its own."""

    def __init__(self, name: str, address: str, enter: list[str], **options: Any) -> None:
        speed: Mapping[str, object] = {**CALM, **options.pop("speed", {})}
        super().__init__(speed=speed, **options)
        self.name, self.address = name, address
        self._namespace = next(word.partition("=")[2] for word in enter if word.startswith("--net="))
        text = UNIT.format(root=self.root, bytecode=shared_bytecode(), name=name, address=address)
        self.systemd.write_unit("k3s.service", text)
        self.config.write_text(self.config.read_text() + "start_timeout: 60s\n")

    @contextlib.contextmanager
    def network(self) -> Iterator[None]:
        """This thread, and the processes it starts, in the node's network."""
        before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        there = os.open(self._namespace, os.O_RDONLY)
        try:
            _check(_libc.setns(there, _NEWNET))
            try:
                yield
            finally:
                _check(_libc.setns(before, _NEWNET))
        finally:
            os.close(before)
            os.close(there)

    @property
    def url(self) -> str:
        return f"https://{self.address}:6443"

    def start(self) -> None:
        """The bus and systemd; k3s only where it has something to run on."""
        self.bus.start()
        with self.network():
            self.systemd.start()
        if (self.db / "state.db").exists():
            self.systemctl("start", "k3s.service")

    def power_returns(self) -> None:
        with self.network():
            super().power_returns()

    def start_agent(self, die: int | str | None = None, **options: Any) -> None:
        with self.network():
            super().start_agent(die, **options)

    def run_rescue(self, *arguments: Any, **options: Any) -> subprocess.CompletedProcess[str]:
        with self.network():
            return super().run_rescue(*arguments, **options)

    def etcd_keys(self) -> dict[bytes, bytes]:
        with self.network():
            return super().etcd_keys()

    def etcdctl(self, *words: str, options: Sequence[str]) -> Any:
        """etcdctl on this node's etcd; its JSON."""
        command = ["etcdctl", "--endpoints=https://127.0.0.1:2379", "--command-timeout=10s", *options, *words]
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, env={**os.environ, "ETCDCTL_API": "3"}
        )
        return json.loads(done.stdout)

    def token_for(self, other: ClusterNode) -> Path:
        """This server's token as a file on ``other``."""
        path = other.root / "cluster-token"
        path.write_bytes((self.data / "server/token").read_bytes())
        path.chmod(0o600)
        return path


def _check(result: int) -> None:
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


@contextlib.contextmanager
def cluster(size: int, **options: Any) -> Iterator[list[ClusterNode]]:
    """Nodes n1 … with 10.99.0.11 …; the first one seeded and running on SQLite."""
    addresses = [f"10.99.0.{10 + number}" for number in range(1, size + 1)]
    nodes: list[ClusterNode] = []
    with machines(*addresses) as places:
        try:
            for number, (address, enter) in enumerate(zip(addresses, places, strict=True), 1):
                nodes.append(ClusterNode(f"n{number}", address, enter, **options))
            nodes[0].seed(20)
            for node in nodes:
                node.start()
            yield nodes
        except BaseException:
            for node in nodes:
                print(f"===== {node.name}\n{node.diagnosis()}")
            raise
        finally:
            for node in reversed(nodes):
                node.close()
