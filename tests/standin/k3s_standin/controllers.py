"""What goes on while k3s runs: kubelet and leases, the etcd role, members and learners.

One thread, one pass a tick; each part writes through the store like any client.
"""

from __future__ import annotations

import copy
import http.client
import json
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

from . import log, membership, nodepassword, objects, protobuf
from .node import Node
from .store import Changed, Exists, Missing, StoreError

ETCD_ROLE = "node-role.kubernetes.io/etcd"
ETCD_NAME = "etcd.k3s.cattle.io/node-name"
ETCD_ADDRESS = "etcd.k3s.cattle.io/node-address"
NODE_FINALIZER = "wrangler.cattle.io/node"
ETCD_FINALIZER = "wrangler.cattle.io/managed-etcd-controller"


class Controllers:
    def __init__(self, node: Node) -> None:
        self.node = node
        self._ready_at = time.monotonic()
        self._next_heartbeat = 0.0
        self._members = membership.Members(node)

    def start(self) -> None:
        self._ready_at = time.monotonic()
        threading.Thread(target=self._run, daemon=True, name="controllers").start()

    def register(self) -> None:
        """The kubelet's first status update: the own Node, as JSON, made if there is none."""
        node = self.node
        if not node.runs_agent:
            return
        nodepassword.check(node)
        if not change_node(node, self._as_kubelet):
            thing = self._as_kubelet(fresh_node(node))
            try:
                if node.store is not None:
                    node.store.create(objects.key("nodes", "", node.name), objects.stored(thing))
            except Exists:
                change_node(node, self._as_kubelet)
        log.info(f"labels have been set successfully on node: {node.name}")

    def _run(self) -> None:
        while True:
            parts: list[Callable[[], None]] = [self._heartbeat, self._etcd_role, self._members.promote]
            if self.node.runs_api:
                parts.append(self._members.removals)
            for part in parts:
                try:
                    part()
                except (StoreError, Changed, Missing, Exists, OSError, http.client.HTTPException) as error:
                    log.line("error", f"{part.__name__.strip('_')}: {error!r}")
            time.sleep(self.node.standin.speed.controller_tick)

    def _heartbeat(self) -> None:
        """The rows an idle cluster keeps writing: node lease, master lease (TTL 15 s)."""
        node, store = self.node, self.node.store
        interval = node.standin.speed.heartbeat_interval
        if store is None or not interval or time.monotonic() < self._next_heartbeat or not node.runs_api:
            return
        self._next_heartbeat = time.monotonic() + interval
        if node.runs_agent:
            value = protobuf.lease("kube-node-lease", node.name, node.name)
            upsert(node, f"/registry/leases/kube-node-lease/{node.name}", value)
        upsert(node, f"/registry/masterleases/{node.address}", master_lease(node.address), 15)

    def _etcd_role(self) -> None:
        """Label, annotations and finalizer of the metadata controller, some time after READY=1 (4.6)."""
        node = self.node
        if node.etcd is None or node.standin.faults.no_role or not node.runs_agent:
            return
        if time.monotonic() < self._ready_at + node.standin.speed.role_delay:
            return
        name, voter = node.etcd.name, self._members.own_condition()

        def change(thing: dict[str, Any]) -> dict[str, Any]:
            meta = thing["metadata"]
            if meta.get("deletionTimestamp"):
                return thing
            meta.setdefault("labels", {})[ETCD_ROLE] = "true"
            meta.setdefault("annotations", {}).update({ETCD_NAME: name, ETCD_ADDRESS: node.address})
            if ETCD_FINALIZER not in meta.setdefault("finalizers", []):
                meta["finalizers"].append(ETCD_FINALIZER)
            if voter:
                set_condition(thing, voter)
            return thing

        change_node(node, change)

    def _as_kubelet(self, thing: dict[str, Any]) -> dict[str, Any]:
        node = self.node
        meta = thing["metadata"]
        labels, annotations = meta.setdefault("labels", {}), meta.setdefault("annotations", {})
        labels["node-role.kubernetes.io/control-plane"] = "true"
        if node.standin.version.master_label:
            labels["node-role.kubernetes.io/master"] = "true"
        annotations.update(
            {
                "k3s.io/hostname": node.name,
                "k3s.io/internal-ip": node.address,
                "k3s.io/node-args": json.dumps(node.flags.shown, separators=(",", ":")),
                "k3s.io/node-env": "{}",
            }
        )
        status = thing.setdefault("status", {})
        others = [a for a in status.get("addresses", []) if a.get("type") not in ("InternalIP", "Hostname")]
        own = [{"type": "InternalIP", "address": node.address}, {"type": "Hostname", "address": node.name}]
        status["addresses"] = own + others
        version = node.standin.version.text
        status.setdefault("nodeInfo", {}).update(kubeletVersion=version, kubeProxyVersion=version)
        good = not node.standin.faults.no_node
        set_condition(
            thing,
            {
                "type": "Ready",
                "status": "True" if good else "False",
                "reason": "KubeletReady" if good else "KubeletNotReady",
                "message": "kubelet is posting ready status" if good else "container runtime is down",
            },
        )
        return thing


def upsert(node: Node, key: str, value: bytes, lease: int = 0) -> None:
    if node.store is None:
        return
    if node.store.get(key) is None:
        node.store.create(key, value, lease)
    else:
        node.store.update(key, value, 0, lease)


def change_node(node: Node, change: Callable[[dict[str, Any]], dict[str, Any]], name: str = "") -> bool:
    """Change a Node object if the change makes a difference; False when there is no such Node."""
    store, key = node.store, objects.key("nodes", "", name or node.name)
    if store is None:
        return False
    for _ in range(20):
        item = store.get(key)
        if item is None:
            return False
        before = objects.read(item)
        after = change(copy.deepcopy(before))
        if after == before:
            return True
        try:
            store.update(key, objects.stored(after), item.mod_revision)
            return True
        except Changed:
            continue
        except Missing:
            return False
    raise Changed(key)


def set_condition(thing: dict[str, Any], condition: dict[str, str]) -> None:
    """Put a condition into the Node's status; its times change only with its status."""
    conditions = thing.setdefault("status", {}).setdefault("conditions", [])
    for number, old in enumerate(conditions):
        if old["type"] == condition["type"]:
            if old.get("status") != condition["status"] or old.get("reason") != condition["reason"]:
                conditions[number] = {**condition, "lastHeartbeatTime": objects.now(),
                                      "lastTransitionTime": objects.now()}  # fmt: skip
            return
    conditions.append({**condition, "lastHeartbeatTime": objects.now(), "lastTransitionTime": objects.now()})


def fresh_node(node: Node) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": node.name,
            "uid": str(uuid.uuid4()),
            "creationTimestamp": objects.now(),
            "labels": {
                "beta.kubernetes.io/arch": "amd64", "beta.kubernetes.io/instance-type": "k3s",
                "beta.kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64",
                "kubernetes.io/hostname": node.name, "kubernetes.io/os": "linux",
                "node.kubernetes.io/instance-type": "k3s",
            },
            "annotations": {"node.alpha.kubernetes.io/ttl": "0"},
            "finalizers": [NODE_FINALIZER],
        },
        "spec": {"providerID": f"k3s://{node.name}"},
        "status": {"daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}}},
    }  # fmt: skip


def master_lease(address: str) -> bytes:
    """Endpoints with this address, stored like the recording's /registry/masterleases/10.99.0.11."""
    subset = protobuf.message((1, protobuf.message((1, address))))
    raw = protobuf.message((1, protobuf.message((1, ""))), (2, subset))
    kind = protobuf.message((1, "v1"), (2, "Endpoints"))
    return protobuf.PREFIX + protobuf.message((1, kind), (2, raw), (3, b""), (4, b""))
