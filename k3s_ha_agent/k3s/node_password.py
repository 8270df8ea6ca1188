"""Whether a server knows the password its name is bound to in the cluster (k3s-facts J5 and 4.1).

The Secret ``<node>.node-password.k3s`` holds a scrypt hash of ``/etc/rancher/node/password``, written as
``$1:<salt hex>:<log2 N>:<r>:<p>:<base64>`` (pkg/authenticator/hash). A hash in another form cannot be compared.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac

MAX_MEMORY = 256 * 1024 * 1024
"""Bytes scrypt may take; k3s's own parameters (2^15, 8, 3) take 32 MiB."""


def secret_path(node: str) -> str:
    """Where the API server has the Secret of a node."""
    return f"/api/v1/namespaces/kube-system/secrets/{node}.node-password.k3s"


def matches(password: bytes, kept: str) -> bool | None:
    """Whether ``password`` is the one of the hash; None when the hash cannot be read. Blocks shortly."""
    try:
        version, salt, cost, block, parallel, text = kept.removeprefix("$").split(":")
        if version != "1":
            return None
        wanted = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
        made = hashlib.scrypt(
            password,
            salt=bytes.fromhex(salt),
            n=1 << int(cost),
            r=int(block),
            p=int(parallel),
            maxmem=MAX_MEMORY,
            dklen=len(wanted),
        )
    except (ValueError, TypeError, OverflowError, binascii.Error, MemoryError):
        return None
    return hmac.compare_digest(made, wanted)
