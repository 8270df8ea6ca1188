"""After a second server is in, the first one's ``cluster-init`` is replaced by ``server:`` of a peer; and back.

A server that lost its datastore while ``cluster-init`` is still there begins a second, empty cluster
(k3s-facts R5, J13). With an etcd in place k3s ignores both ("ten facts" 1), so only our own drop-in is
changed and k3s is not restarted.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

import structlog

from k3s_ha_agent import durable
from k3s_ha_agent.k3s.configuration import cluster_init_drop_in, server_drop_in
from k3s_ha_agent.k3s.etcd import EtcdClient, Member
from k3s_ha_agent.k3s.layout import Layout
from k3s_ha_agent.model import Kind, Operation
from k3s_ha_agent.operations.history import last_commitment
from k3s_ha_agent.operations.threads import in_thread

log = structlog.get_logger("k3s_ha_agent.operations")


def wanted(ours: str, members: Sequence[Member], token_file: Path, current: bytes, port: int) -> bytes:
    """What our drop-in should say on a server that migrated. ``ours``: the name of our member.

    A peer that is still a member is kept, so that the file does not change for nothing.
    """
    peers = sorted(m.client_urls[0] for m in members if m.name != ours and not m.is_learner and m.client_urls)
    if not peers:
        return cluster_init_drop_in()
    drop_ins = [server_drop_in(f"https://{_host(url)}:{port}", token_file) for url in peers]
    return current if current in drop_ins else drop_ins[0]


def _host(url: str) -> str:
    host = urlsplit(url).hostname or ""
    return f"[{host}]" if ":" in host else host


async def reconcile(layout: Layout, drop_in: Path, history: Sequence[Operation]) -> bool:
    """Bring our drop-in up to the members of the cluster; whether it was changed. EtcdError, OSError.

    Only on a server whose last commitment is a migration: one that joined has a ``server:`` already.
    """
    done = last_commitment(history)
    if done is None or done.kind is not Kind.MIGRATE or not await in_thread(drop_in.exists):
        return False
    async with EtcdClient.from_layout(layout) as etcd:
        members = await etcd.members()
    ours = (await in_thread(layout.etcd_name.read_text)).strip()
    current = await in_thread(drop_in.read_bytes)
    text = wanted(ours, members, layout.token_file, current, int(done.facts["api_port"]))
    if text == current:
        return False
    await in_thread(durable.write, drop_in, text)
    if text == cluster_init_drop_in():
        log.info(f"This server is alone in its cluster: {drop_in} says cluster-init again.")
    else:
        log.info(f"The cluster has other servers: {drop_in} names one of them, so that no second cluster can begin.")
    return True
