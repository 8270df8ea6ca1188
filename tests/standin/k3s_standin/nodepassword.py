"""/etc/rancher/node/password and the Secret <node>.node-password.k3s (facts J5, 4.1)."""

from __future__ import annotations

import base64
import hashlib
import secrets
from pathlib import Path

from . import log, objects, pki
from .node import Node
from .store import Exists


def check(node: Node) -> None:
    """Make the Secret, or compare with it; ends the process when the password is another's."""
    given = node.standin.node_password_file
    if given is None or node.store is None:
        return
    path = Path(given)
    if not path.exists():
        pki.write(path, secrets.token_hex(16).encode() + b"\n")
    password = path.read_bytes().strip()
    name = f"{node.name}.node-password.k3s"
    key = objects.key("secrets", "kube-system", name)
    thing = {
        "apiVersion": "v1", "kind": "Secret", "type": "Opaque", "immutable": True,
        "metadata": {"name": name, "namespace": "kube-system", "creationTimestamp": objects.now()},
        "data": {"hash": base64.b64encode(_hash(password, secrets.token_bytes(8))).decode()},
    }  # fmt: skip
    try:
        node.store.create(key, objects.stored(thing))
    except Exists:
        item = node.store.get(key)
        kept = base64.b64decode(objects.read(item)["data"]["hash"]) if item else b""
        if kept != _hash(password, bytes.fromhex(kept.split(b":")[1].decode())):
            log.fatal(
                "Node password rejected, duplicate hostname or contents of '/etc/rancher/node/password' may not"
                " match server node-passwd entry, try enabling a unique node name with the --with-node-id flag"
            )


def _hash(password: bytes, salt: bytes) -> bytes:
    """``$1:<salt>:15:8:1:<scrypt>``-like, as pkg/authenticator/hash writes it, with a smaller cost."""
    made = hashlib.scrypt(password, salt=salt, n=1 << 10, r=8, p=1, dklen=64)
    return b"$1:" + salt.hex().encode() + b":10:8:1:" + base64.b64encode(made)
