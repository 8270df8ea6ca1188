"""One change of the membership at a time per cluster, whoever asks.

A ConfigMap of the cluster itself, changed only under the resourceVersion it was read with, says who
is joining or leaving. It runs out by itself, so that a server that died holds nobody up. etcd
allows only one learner anyway; this keeps a second server from finding out half-way.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from k3s_ha_agent.errors import ApiserverError, Conflict, ObjectNotFound
from k3s_ha_agent.k3s.apiserver import Apiserver

NAME = "k3s-ha-agent-membership"
_COLLECTION = "/api/v1/namespaces/kube-system/configmaps"
_PATH = f"{_COLLECTION}/{NAME}"


async def acquire(api: Apiserver, holder: str, seconds: float) -> None:
    """Take the lock, or make ours last longer. Conflict, naming the holder, when another has it."""
    data = {"holder": holder, "until": f"{time.time() + seconds:.0f}"}
    try:
        found = await api.ask("GET", _PATH)
    except ObjectNotFound:
        await _write(api, "POST", _COLLECTION, data, None)
        return
    _refuse_other(found, holder)
    await _write(api, "PUT", _PATH, data, found["metadata"]["resourceVersion"])


async def require_free(api: Apiserver) -> None:
    """Conflict, naming the holder, while somebody has the lock."""
    try:
        found = await api.ask("GET", _PATH)
    except ObjectNotFound:
        return
    _refuse_other(found, "")


def _refuse_other(found: Mapping[str, Any], holder: str) -> None:
    current = found.get("data") or {}
    other = current.get("holder", "")
    if other not in ("", holder) and float(current.get("until", "0")) > time.time():
        raise Conflict(
            f"{other} is changing the members of this cluster.",
            next_step='One at a time: wait for it, or ask with {"on_conflict": "wait"}.',
            holder=other,
        )


async def release(api: Apiserver, holder: str) -> None:
    """Give the lock back if it is ours. Safe to run twice."""
    try:
        found = await api.ask("GET", _PATH)
    except ObjectNotFound:
        return
    if (found.get("data") or {}).get("holder") == holder:
        await _write(api, "PUT", _PATH, {"holder": "", "until": "0"}, found["metadata"]["resourceVersion"])


async def _write(api: Apiserver, method: str, path: str, data: dict[str, str], version: str | None) -> None:
    metadata: dict[str, Any] = {"name": NAME, "namespace": "kube-system"}
    if version is not None:
        metadata["resourceVersion"] = version
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}
    try:
        await api.ask(method, path, body=body)
    except ApiserverError as error:
        if error.extensions.get("http_status") == 409:
            raise Conflict(
                "Another server has just begun to change the members of this cluster.",
                next_step="Ask again in a minute.",
            ) from error
        raise
