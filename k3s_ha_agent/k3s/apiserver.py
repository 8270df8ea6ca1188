"""A client of the Kubernetes API server, as far as Nodes and its health go.

Asks with k3s's own admin certificate (``tls/client-admin.crt``), on the supervisor's port.
"""

from __future__ import annotations

import dataclasses
import json
import ssl
import urllib.parse
from collections.abc import Mapping
from typing import Any, Self

from k3s_ha_agent.errors import ApiserverError, ObjectNotFound
from k3s_ha_agent.k3s.http_client import Answer, HttpClient, client_ssl, parse_json
from k3s_ha_agent.k3s.layout import Layout

TIMEOUT = 10.0
"""Seconds for one answer."""
ROLE_LABEL = "node-role.kubernetes.io/"
MEMBER_NAME = "etcd.k3s.cattle.io/node-name"
"""Annotation: the name of the Node's etcd member (k3s-facts 4.6)."""
VOTES = "EtcdIsVoter"
"""Condition since 2023-11, refreshed by the leader every 15 seconds (k3s-facts 4.6)."""
MERGE_PATCH = "application/merge-patch+json"


@dataclasses.dataclass(frozen=True, slots=True)
class Readiness:
    ready: bool
    reason: str
    """``ok``, or what the API server said, or why it could not be asked."""

    def __bool__(self) -> bool:
        return self.ready


@dataclasses.dataclass(frozen=True, slots=True)
class Node:
    name: str
    uid: str
    roles: tuple[str, ...]
    """Sorted, without the label's prefix: ``("control-plane", "etcd", "master")``."""
    ready: bool
    annotations: Mapping[str, str]
    labels: Mapping[str, str]
    conditions: Mapping[str, str]
    """Status by type: ``{"Ready": "True", "EtcdIsVoter": "True"}``."""
    reasons: Mapping[str, str]
    """Reason by condition type: ``{"EtcdIsVoter": "MemberNotLearner"}``."""
    internal_ip: str
    """The first InternalIP, empty when there is none."""
    resource_version: str
    finalizers: tuple[str, ...]
    deleting: bool
    kubelet_version: str = ""
    """k3s's own version on that server, ``v1.22.2+k3s1``; empty when the Node does not say."""


class Apiserver(HttpClient):
    """All methods raise ApiserverError unless they say otherwise."""

    def __init__(self, url: str, ssl_context: ssl.SSLContext | None, *, timeout: float = TIMEOUT) -> None:
        super().__init__(url, ssl_context, timeout=timeout, error=ApiserverError, who="The API server")

    @classmethod
    def from_layout(cls, layout: Layout, port: int = 6443, *, timeout: float = TIMEOUT) -> Self:
        """The API server of this server. Blocks shortly."""
        try:
            context = client_ssl(str(layout.server_ca), str(layout.admin_cert), str(layout.admin_key))
        except OSError as error:
            raise ApiserverError(
                f"The API server cannot be asked, the certificates in {layout.tls} cannot be read: "
                f"{error.strerror or error}."
            ) from error
        return cls(f"https://127.0.0.1:{port}", context, timeout=timeout)

    async def readyz(self) -> Readiness:
        """Whether it says it is ready. Not being reachable in time is not ready, with the reason."""
        try:
            answer = await self.request("GET", "/readyz")
        except ApiserverError as error:
            return Readiness(False, error.detail)
        if answer.status == 200:
            return Readiness(True, "ok")
        return Readiness(False, f"HTTP {answer.status}: {_message(answer)}")

    async def version(self) -> str:
        """Its version, ``v1.22.2-rc2+k3s1``."""
        answer = await self.ask("GET", "/version")
        try:
            return str(answer["gitVersion"])
        except (KeyError, TypeError) as error:
            raise self.problem("gives no version.") from error

    async def nodes(self) -> list[Node]:
        answer = await self.ask("GET", "/api/v1/nodes")
        return [self._node(item) for item in answer.get("items") or ()]

    async def node(self, name: str) -> Node:
        """One Node; ObjectNotFound when there is none of that name."""
        return self._node(await self.ask("GET", _node_path(name)))

    async def patch_node(self, name: str, patch: Mapping[str, Any]) -> Node:
        """Change a Node by a JSON merge patch; ``None`` removes a label or annotation."""
        return self._node(await self.ask("PATCH", _node_path(name), body=patch, content_type=MERGE_PATCH))

    async def delete_node(self, name: str) -> bool:
        """Ask for a Node's deletion, without waiting for its finalizers; whether there was one.

        The finalizer of a member removed by annotation never ends (k3s-facts, "Seen" 12): poll
        ``node`` until it is not found, with a limit.
        """
        try:
            await self.ask("DELETE", _node_path(name))
        except ObjectNotFound:
            return False
        return True

    async def ask(
        self,
        method: str,
        path: str,
        *,
        body: Mapping[str, Any] | None = None,
        content_type: str = "application/json",
        params: Mapping[str, str] | None = None,
    ) -> Any:
        """Any request; the JSON of its answer. ObjectNotFound for 404."""
        headers = {"Accept": "application/json"}
        data = None
        if body is not None:
            data = json.dumps(body).encode()
            headers["Content-Type"] = content_type
        answer = await self.request(method, path, data=data, headers=headers, params=params)
        if answer.status == 404:
            raise ObjectNotFound(f"The API server at {self.url} has no {path}.", http_status=404)
        if not 200 <= answer.status < 300:
            raise self.problem(
                f"refused {method} {path} with HTTP {answer.status}: {_message(answer)}.", http_status=answer.status
            )
        try:
            return await parse_json(answer.body)
        except ValueError as error:
            raise self.problem(f"answered {method} {path} with something that is not JSON.") from error

    def _node(self, item: Any) -> Node:
        try:
            return parse_node(item)
        except (KeyError, TypeError, AttributeError) as error:
            raise self.problem(f"sent a Node that is not understood: {type(error).__name__} {error}.") from error


def _node_path(name: str) -> str:
    return f"/api/v1/nodes/{urllib.parse.quote(name, safe='')}"


def _message(answer: Answer) -> str:
    """What a refusal says: the message of a Status object, or the end of the text."""
    try:
        return str(json.loads(answer.body)["message"])
    except (ValueError, KeyError, TypeError):
        return " ".join(answer.text().split())[-300:] or "no explanation"


def parse_node(item: Mapping[str, Any]) -> Node:
    """A Node out of its JSON. KeyError, TypeError or AttributeError when it is none."""
    metadata = item["metadata"]
    status = item.get("status") or {}
    labels = dict(metadata.get("labels") or {})
    conditions = {c["type"]: c["status"] for c in status.get("conditions") or ()}
    return Node(
        name=metadata["name"],
        uid=metadata.get("uid", ""),
        roles=tuple(sorted(label.removeprefix(ROLE_LABEL) for label in labels if label.startswith(ROLE_LABEL))),
        ready=conditions.get("Ready") == "True",
        annotations=dict(metadata.get("annotations") or {}),
        labels=labels,
        conditions=conditions,
        reasons={c["type"]: c.get("reason", "") for c in status.get("conditions") or ()},
        internal_ip=next((a["address"] for a in status.get("addresses") or () if a["type"] == "InternalIP"), ""),
        resource_version=metadata.get("resourceVersion", ""),
        finalizers=tuple(metadata.get("finalizers") or ()),
        deleting="deletionTimestamp" in metadata,
        kubelet_version=(status.get("nodeInfo") or {}).get("kubeletVersion", ""),
    )
