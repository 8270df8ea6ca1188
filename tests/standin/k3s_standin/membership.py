"""Members of the etcd cluster: promotion of learners, removal of nodes (facts 4.5, 4.6).

Every server runs this; only the one whose etcd is leader acts.
"""

from __future__ import annotations

import http.client
import time
from typing import Any

from . import controllers, log, objects
from .node import Node
from .store import StoreError

REMOVE = "etcd.k3s.cattle.io/remove"
REMOVED = "etcd.k3s.cattle.io/removed-node-name"


class Members:
    def __init__(self, node: Node) -> None:
        self.node = node
        self._next = 0.0
        self._learning: dict[str, tuple[float, int]] = {}
        """Learner -> (since when its progress stands still, progress)."""
        self._deleted: dict[str, float] = {}
        """UID of a Node being deleted -> when that was first seen."""

    def promote(self) -> None:
        """Each tick the leader promotes a learner that has caught up; a stalled one is removed (4.5)."""
        node = self.node
        if node.etcd is None or time.monotonic() < self._next:
            return
        self._next = time.monotonic() + node.standin.speed.promote_tick
        if node.standin.faults.never_promote or not self._is_leader():
            return
        gateway = node.etcd.gateway
        learners = [m for m in gateway.members() if m.get("isLearner")]
        for member in learners:
            try:
                gateway.call("cluster/member/promote", {"ID": member["ID"]})
                log.info(f"Promoted learner {member.get('name') or member['peerURLs'][0]}")
            except StoreError:
                self._stalled(member)

    def _stalled(self, member: dict[str, Any]) -> None:
        node = self.node
        since, _ = self._learning.setdefault(member["ID"], (time.monotonic(), 0))
        if member.get("name") or node.etcd is None:
            # Started once: it only lags. k3s measures its applied index, the stand-in its start.
            self._learning.pop(member["ID"], None)
        elif time.monotonic() - since > node.standin.speed.learner_stalled:
            node.etcd.gateway.call("cluster/member/remove", {"ID": member["ID"]})
            self._learning.pop(member["ID"], None)
            log.warning(f"Removed learner {member['peerURLs'][0]} from etcd cluster: stalled")

    def removals(self) -> None:
        """Nodes marked for removal, and Nodes being deleted, lose their member (4.6)."""
        node = self.node
        if node.store is None or not (node.etcd is None or self._is_leader()):
            return
        for item in node.store.below("/registry/minions/")[1]:
            thing = objects.read(item)
            meta = thing["metadata"]
            annotations = meta.get("annotations", {})
            member = annotations.get(controllers.ETCD_NAME, "")
            removed = bool(member) and annotations.get(REMOVED) == member
            if node.etcd is not None and annotations.get(REMOVE) == "true" and not removed:
                self._remove_marked(meta["name"], member)
            if meta.get("deletionTimestamp"):
                since = self._deleted.setdefault(meta["uid"], time.monotonic())
                # Gone at once, or after a while when the member was removed before ("Seen" 12).
                if not removed or time.monotonic() - since >= node.standin.speed.finalizer_delay:
                    self._finish_deletion(meta["name"], member)

    def _remove_marked(self, name: str, member: str) -> None:
        removed = self._remove(member)

        def change(thing: dict[str, Any]) -> dict[str, Any]:
            annotations = thing["metadata"]["annotations"]
            if removed:
                annotations[REMOVED] = member
            else:  # the last voter stays: the wish is rejected
                annotations.pop(REMOVE, None)
            return thing

        controllers.change_node(self.node, change, name)

    def _finish_deletion(self, name: str, member: str) -> None:
        """Take the finalizers off, as far as their controllers run here; on SQLite etcd's stays."""
        done = {controllers.NODE_FINALIZER}
        if self.node.etcd is not None and (not member or self._remove(member)):
            done.add(controllers.ETCD_FINALIZER)
        left: list[str] = []

        def change(thing: dict[str, Any]) -> dict[str, Any]:
            nonlocal left
            left = [f for f in thing["metadata"].get("finalizers", []) if f not in done]
            thing["metadata"]["finalizers"] = left
            return thing

        if controllers.change_node(self.node, change, name) and not left and self.node.store is not None:
            self.node.store.delete(objects.key("nodes", "", name))

    def _remove(self, name: str) -> bool:
        """Take a member out; False when it is the last voter. True when it is no member (any more)."""
        if self.node.etcd is None:
            return False
        gateway = self.node.etcd.gateway
        members = gateway.members()
        found = [m for m in members if m.get("name") == name]
        if not found:
            return True
        others = [m for m in members if m.get("name") != name and not m.get("isLearner")]
        if not others:
            return False
        log.info(f"Removing name={name} id={found[0]['ID']} address={found[0]['peerURLs'][0]} from etcd")
        gateway.call("cluster/member/remove", {"ID": found[0]["ID"]})
        return True

    def _is_leader(self) -> bool:
        if self.node.etcd is None:
            return False
        status = self.node.etcd.gateway.status()
        return bool(status.get("leader")) and status["leader"] == status["header"]["member_id"]

    def own_condition(self) -> dict[str, str] | None:
        """EtcdIsVoter of this node (since Nov 2023), as the leader would write it."""
        node = self.node
        if node.etcd is None or not node.standin.version.voter_condition:
            return None
        try:
            own = [m for m in node.etcd.gateway.members() if m.get("name") == node.etcd.name]
        except (StoreError, OSError, http.client.HTTPException):
            return None
        if not own:
            status, reason, words = "False", "NotAMember", "Node is not a member of the etcd cluster"
        elif own[0].get("isLearner"):
            status, reason, words = "False", "MemberIsLearner", "Node has not been promoted to voting member"
        else:
            status, reason, words = "True", "MemberNotLearner", "Node is a voting member of the etcd cluster"
        return {"type": "EtcdIsVoter", "status": status, "reason": reason, "message": words}
