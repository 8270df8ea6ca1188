"""The rest of the cluster, asked through another of its servers.

Before the join the server token is all there is (``k3s/bootstrap.py``); afterwards this server has an
admin certificate of its own, which every server of the cluster accepts.
"""

from __future__ import annotations

import asyncio
import dataclasses
import socket
import urllib.parse
from collections.abc import Collection, Sequence
from pathlib import Path

from k3s_ha_agent.errors import AgentError, ApiserverError, ObjectNotFound, StepFailed, SupervisorError, TokenError
from k3s_ha_agent.k3s import bootstrap
from k3s_ha_agent.k3s import token as tokens
from k3s_ha_agent.k3s.apiserver import Apiserver, Node
from k3s_ha_agent.k3s.etcd import EtcdClient, Member
from k3s_ha_agent.k3s.http_client import client_ssl
from k3s_ha_agent.k3s.layout import Layout
from k3s_ha_agent.k3s.supervisor import Supervisor
from k3s_ha_agent.operations.threads import in_thread

REACH_LIMIT = 3.0
"""Seconds to reach another member."""
REMOVE = "etcd.k3s.cattle.io/remove"
REMOVED = "etcd.k3s.cattle.io/removed-node-name"
"""k3s removes the member when the first is ``"true"``, and says so in the second (k3s-facts 4.6)."""


@dataclasses.dataclass(frozen=True, slots=True)
class Peers:
    """``url``: another server's supervisor and API server; ``token_file``: the token, 0600, ours."""

    layout: Layout
    url: str
    token_file: Path
    runtime_dir: Path
    node_name: str
    kept: Layout
    """Where the operation keeps this server's files in the quarantine: what is left to be said to the cluster is said
    with their certificates."""

    async def api(self) -> Apiserver:
        """A client of the API server there; close it. ApiserverError, SupervisorError, TokenError."""
        for layout in (self.layout, self.kept):
            if await in_thread(layout.admin_cert.exists):
                context = await in_thread(
                    client_ssl, str(layout.server_ca), str(layout.admin_cert), str(layout.admin_key)
                )
                return Apiserver(self.url, context)
        return await bootstrap.admin(self.url, await self._token(), self.runtime_dir)

    async def _token(self) -> tokens.Token:
        for path in (self.token_file, self.layout.token_file, self.kept.token_file):
            if await in_thread(path.exists):
                return tokens.Token.parse(await in_thread(path.read_text))
        raise TokenError(f"The token of the cluster is gone: neither {self.token_file} nor a copy is there.")

    async def members(self) -> Sequence[Member]:
        """etcd's members as the other server sees them. SupervisorError when it has no list."""
        async with await Supervisor.of_peer(self.url, await self._token(), username="server") as supervisor:
            found = await supervisor.db_info()
        if found.http_status != 200:
            raise SupervisorError(
                f"{self.url} gives no list of etcd's members (HTTP {found.http_status}): {found.message}.",
                http_status=found.http_status,
            )
        return found.members

    def is_ours(self, member: Member, address: str) -> bool:
        """Whether a member is this server: by its peer address, which was free before the join, or by its name
        (``<node>-<8 hex>``), should the address have changed since. Releases of 2021 make the name of the hostname
        up to its first dot, whatever the Node is called."""
        if any(f"//{address}:" in url or f"//[{address}]:" in url for url in member.peer_urls):
            return True
        return bool(member.name) and member.name.rpartition("-")[0] == self.node_name

    async def our_member(self, address: str) -> Member | None:
        for member in await self.members():
            if self.is_ours(member, address):
                return member
        return None

    async def node(self) -> Node | None:
        """This server's Node, None when the cluster has none. ApiserverError when it cannot be asked."""
        async with await self.api() as api:
            try:
                return await api.node(self.node_name)
            except ObjectNotFound:
                return None

    async def ask_removal(self) -> bool:
        """Have k3s remove our member by annotating our Node; False when there is no Node to annotate."""
        async with await self.api() as api:
            try:
                await api.patch_node(self.node_name, {"metadata": {"annotations": {REMOVE: "true"}}})
            except ObjectNotFound:
                return False
        return True

    async def withdraw_removal(self) -> None:
        async with await self.api() as api:
            try:
                await api.patch_node(self.node_name, {"metadata": {"annotations": {REMOVE: None}}})
            except ObjectNotFound:
                return

    async def delete_node(self) -> bool:
        """Delete our Node and its password Secret, without hanging on the Node's finalizers; whether it is gone.

        After the member was removed by annotation, nobody takes k3s's finalizer off any more ("Seen" 12), so it
        is taken off here.
        """
        async with await self.api() as api:
            await api.delete_node(self.node_name)
            try:
                node = await api.node(self.node_name)
            except ObjectNotFound:
                node = None
            if node is not None:
                await api.patch_node(self.node_name, {"metadata": {"finalizers": None}})
            await self._delete_password(api)
            try:
                await api.node(self.node_name)
            except ObjectNotFound:
                return True
        return False

    async def _delete_password(self, api: Apiserver) -> None:
        """The Secret that binds the node's name to a password (k3s-facts J5)."""
        path = f"/api/v1/namespaces/kube-system/secrets/{self.node_name}.node-password.k3s"
        try:
            await api.ask("DELETE", path)
        except ObjectNotFound:
            return

    async def elsewhere(self, address: str, api_port: int) -> Peers:
        """The same, asked through a server that is surely another one and answers; this one when none is found.

        Behind a load balancer's name this very server may answer, and the server that was joined may have left since.
        """
        try:
            async with EtcdClient.from_layout(self.layout) as etcd:
                members = await etcd.members()
        except AgentError:
            return self
        others = [m for m in members if not m.is_learner and not self.is_ours(m, address)]
        hosts = dict.fromkeys(urllib.parse.urlsplit(url).hostname or "" for m in others for url in m.peer_urls)
        urls = [f"https://[{host}]:{api_port}" if ":" in host else f"https://{host}:{api_port}" for host in hosts]
        if await self._leads_to(set(hosts)):
            urls.insert(0, self.url)
        for url in dict.fromkeys(urls):
            peer = dataclasses.replace(self, url=url)
            try:
                await peer.members()
            except AgentError:
                continue
            return peer
        return self

    async def _leads_to(self, hosts: Collection[str]) -> bool:
        """Whether our URL leads to these addresses and nowhere else."""
        parts = urllib.parse.urlsplit(self.url)
        try:
            found = await asyncio.get_running_loop().getaddrinfo(parts.hostname, parts.port, type=socket.SOCK_STREAM)
        except OSError:
            return False
        return {str(entry[4][0]) for entry in found} <= set(hosts)

    async def gone(self, address: str) -> bool | None:
        """True when the other server lists no member of ours; None when it lists one or does not answer."""
        try:
            return True if await self.our_member(address) is None else None
        except (SupervisorError, ApiserverError, TokenError):
            return None


async def require_quorum_without(members: Sequence[Member], leaving: Member) -> None:
    """StepFailed when the rest could not go on without ``leaving``: nobody left, or too many of them silent."""
    rest = [m for m in members if not m.is_learner and m.id != leaving.id]
    if not rest:
        raise StepFailed(
            f"{leaving.name} is the last voter of its etcd cluster and cannot leave it.",
            next_step="It is the cluster. To stop using etcd here, roll the migration back on the server that made it.",
        )
    answers = await asyncio.gather(*(_answers(member) for member in rest))
    needed = len(rest) // 2 + 1
    if sum(answers) < needed:
        silent = ", ".join(m.name for m, answered in zip(rest, answers, strict=True) if not answered)
        raise StepFailed(
            f"Without this server {len(rest)} voters are left, {needed} of them are needed, and only {sum(answers)} "
            f"can be reached: {silent} does not answer.",
            next_step="Bring the silent server back, or remove it first, then ask again.",
        )


async def _answers(member: Member) -> bool:
    """Whether somebody listens at one of the member's peer URLs."""
    for url in member.peer_urls:
        parts = urllib.parse.urlsplit(url)
        try:
            async with asyncio.timeout(REACH_LIMIT):
                _, writer = await asyncio.open_connection(parts.hostname, parts.port)
        except (OSError, TimeoutError):
            continue
        writer.close()
        return True
    return False
