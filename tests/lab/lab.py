"""A lab: a network of its own, a layer with the agent of this checkout, and the nodes on it."""

from __future__ import annotations

import atexit
import os
import secrets
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.lab import clean, provision, system
from tests.lab.machine import Machine
from tests.lab.node import Node
from tests.lab.root import cached_root
from tests.lab.system import LabError

NETWORK = "10.89.0"
"""The lab's subnet, /24. Each lab has a network namespace of its own: nothing of it is seen on the machine, and two
labs may use the same addresses."""
BRIDGE = "lab0"
CHECKOUT = Path(__file__).resolve().parent.parent.parent


class Lab:
    """One set of nodes on one bridge. ``close`` takes everything down; so does the end of the process, by any way.

    Everything a lab makes is named after its id: network namespaces ``k3sha-ID`` and ``k3sha-ID-NODE``, machines
    ``k3sha-ID-NODE``, cgroup ``k3s-ha-agent-lab/ID`` and the directory of the nodes' files.
    """

    def __init__(self, k3s_binary: Path | None = None) -> None:
        """Make the network and the layer. ``k3s_binary``: a real k3s for the nodes, by default what K3S_BIN names."""
        if os.geteuid() != 0:
            raise LabError("The lab needs root: it makes mounts, network namespaces and containers. Use sudo.")
        clean.sweep()
        self.root = cached_root()
        self.id = secrets.token_hex(3)
        base = Path(os.environ.get("K3S_HA_AGENT_LAB_DIR", "/var/tmp/k3s-ha-agent-lab"))
        self.directory = base / self.id
        self.nodes: dict[str, Node] = {}
        given = os.environ.get("K3S_BIN")
        self.k3s_binary = k3s_binary or (Path(given).resolve() if given else None)
        self._closed = False
        self._stamp = clean.Stamp(
            self.id, str(self.directory), os.getpid(), system.start_time(os.getpid()) or "", clean.boot_id()
        )
        self._stamp.write()
        self._keeper = subprocess.Popen(
            [sys.executable, "-m", "tests.lab.clean", "--when-over", self.id],
            cwd=CHECKOUT, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        atexit.register(self.close)
        try:
            self.directory.mkdir(parents=True)
            self._make_network()
            self.layer = provision.make_layer(self.root, self.directory / "layer", CHECKOUT, self.k3s_binary)
        except BaseException:
            self.close()
            raise

    def node(self, name: str = "n1") -> Node:
        """A new node, not booted yet, on a fresh disk. Names are ``n1`` to ``n9``; addresses follow from them."""
        if name in self.nodes:
            raise LabError(f"The lab has a node {name} already.")
        if not (len(name) == 2 and name[0] == "n" and name[1] in "123456789"):
            raise LabError(f"{name!r} is no name of a node: use n1 to n9.")
        node = Node(self, name, address=f"{NETWORK}.1{name[1]}")
        try:
            node.create()
        except BaseException:
            node.discard()
            raise
        self.nodes[name] = node
        return node

    def outside(
        self, argv: Sequence[str], *, check: bool = True, timeout: float = 60.0
    ) -> subprocess.CompletedProcess[str]:
        """Run a program of this machine on the lab's network, outside the nodes (address ``10.89.0.1``)."""
        return system.run([*self.outside_prefix(), *argv], check=check, timeout=timeout)

    def outside_prefix(self) -> list[str]:
        """What to put before a command so that it runs on the lab's network."""
        return ["nsenter", f"--net={system.namespace_path(clean.namespace(self.id))}"]

    def leftovers(self) -> list[str]:
        """What is there of the lab on this machine; empty once it is closed."""
        return clean.leftovers(self._stamp)

    def close(self) -> None:
        """Take the lab down: nodes, mounts, network, files. LabError names what could not be removed."""
        if self._closed:
            return
        self._closed = True
        atexit.unregister(self.close)
        try:
            for node in self.nodes.values():
                node.abandon()
            clean.take_down(self._stamp)
        finally:
            assert self._keeper.stdin is not None
            self._keeper.stdin.close()
            self._keeper.wait(timeout=120)

    def _make_network(self) -> None:
        name = clean.namespace(self.id)
        system.run(["ip", "netns", "add", name])
        system.ip(name, "link", "set", "lo", "up")
        system.ip(name, "link", "add", BRIDGE, "type", "bridge")
        system.ip(name, "address", "add", f"{NETWORK}.1/24", "dev", BRIDGE)
        system.ip(name, "link", "set", BRIDGE, "up")

    def connect(self, node: Machine) -> None:
        """Make the node's network namespace, with its address on ``eth0`` and the default route; called by the node.

        It outlives the node's boots, so that address and links are there before its systemd starts.
        """
        inside, outside = clean.namespace(self.id, node.name), clean.namespace(self.id)
        system.run(["ip", "netns", "add", inside])
        system.ip(outside, "link", "add", node.name, "type", "veth", "peer", "name", "eth0", "netns", inside)
        system.ip(outside, "link", "set", node.name, "master", BRIDGE, "up")
        system.ip(inside, "link", "set", "lo", "up")
        system.ip(inside, "link", "set", "eth0", "up")
        system.ip(inside, "address", "add", f"{node.address}/24", "dev", "eth0")
        system.ip(inside, "route", "add", "default", "via", f"{NETWORK}.1")

    def disconnect(self, node: Machine) -> None:
        """Undo ``connect``, as far as it came."""
        # The link first: it would go with the namespace, but some time later, and its name is wanted again.
        system.run(["ip", "-n", clean.namespace(self.id), "link", "delete", node.name], check=False)
        system.run(["ip", "netns", "delete", clean.namespace(self.id, node.name)], check=False)

    def cut(self, node: Node) -> None:
        """Take the node off the network, as when its cable is pulled; ``mend`` puts it back."""
        system.ip(clean.namespace(self.id), "link", "set", node.name, "down")

    def mend(self, node: Node) -> None:
        system.ip(clean.namespace(self.id), "link", "set", node.name, "up")
