"""The API server's part: core objects over the datastore.

Any core resource can be read; ConfigMaps, Secrets, Nodes and the others are written as JSON
values. Unlike the real one it validates nothing and knows no watch (README.md).
"""

from __future__ import annotations

import copy
import json
import time
import uuid
from typing import Any

from . import protobuf
from .store import Changed, Exists, Item, Missing, Store, StoreError
from .web import Answer, Request, failure, json_answer

KINDS = {
    "configmaps": "ConfigMap", "secrets": "Secret", "nodes": "Node", "namespaces": "Namespace", "events": "Event",
    "pods": "Pod", "serviceaccounts": "ServiceAccount", "services": "Service", "endpoints": "Endpoints",
    "persistentvolumeclaims": "PersistentVolumeClaim", "persistentvolumes": "PersistentVolume",
    "replicationcontrollers": "ReplicationController", "resourcequotas": "ResourceQuota",
}  # fmt: skip
CLUSTER_WIDE = frozenset({"nodes", "namespaces", "persistentvolumes"})
DIRECTORIES = {"nodes": "minions", "services": "services/specs", "endpoints": "services/endpoints"}


def key(resource: str, namespace: str, name: str) -> str:
    """Where the API server keeps an object: /registry/minions/n1, /registry/configmaps/ns/name."""
    middle = f"{namespace}/" if namespace else ""
    return f"/registry/{DIRECTORIES.get(resource, resource)}/{middle}{name}"


def read(item: Item) -> dict[str, Any]:
    thing = protobuf.decode(item.value)
    thing.setdefault("metadata", {})["resourceVersion"] = str(item.mod_revision)
    return thing


def stored(thing: dict[str, Any]) -> bytes:
    thing = copy.deepcopy(thing)
    thing.get("metadata", {}).pop("resourceVersion", None)
    return protobuf.encode_json(thing)


def now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def merge(target: Any, patch: Any) -> Any:
    """RFC 7386; also what a strategic merge does to maps."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merge(result.get(name), value)
    return result


def json_patch(target: dict[str, Any], operations: list[dict[str, Any]]) -> dict[str, Any]:
    """RFC 6902 as far as kubectl and controllers use it: add, replace, remove, test."""
    result = copy.deepcopy(target)
    for operation in operations:
        *parents, last = [p.replace("~1", "/").replace("~0", "~") for p in operation["path"].split("/")[1:]]
        place: Any = result
        for part in parents:
            place = place[int(part)] if isinstance(place, list) else place[part]
        act = operation["op"]
        index: Any = last
        if isinstance(place, list):
            index = len(place) if last == "-" else int(last)
        if act == "test":
            if place[index] != operation["value"]:
                raise ValueError(f"the test of {operation['path']} failed")
        elif act == "remove":
            del place[index]
        elif act == "add" and isinstance(place, list):
            place.insert(index, operation["value"])
        elif act in ("add", "replace"):
            place[index] = operation["value"]
        else:
            raise ValueError(f"json patch operation {act!r}")
    return result


class Objects:
    """GET, POST, PUT, PATCH and DELETE below /api/v1."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def __call__(self, request: Request) -> Answer:
        parts = [p for p in request.path.split("/") if p][2:]
        namespace = ""
        if len(parts) >= 3 and parts[0] == "namespaces" and parts[2] in KINDS:
            namespace, parts = parts[1], parts[2:]
        if not parts or parts[0] not in KINDS or len(parts) > 3 or (len(parts) == 3 and parts[2] != "status"):
            return failure(404, "NotFound", "the server could not find the requested resource")
        resource, name = parts[0], parts[1] if len(parts) > 1 else ""
        if name and not namespace and resource not in CLUSTER_WIDE:
            return failure(404, "NotFound", "the server could not find the requested resource")
        if request.query.get("watch", ["false"])[0] in ("1", "true"):
            return failure(405, "MethodNotAllowed", "the stand-in does not watch")
        try:
            return self._act(request, resource, namespace, name)
        except Missing:
            return failure(404, "NotFound", f'{resource} "{name}" not found', name=name, kind=resource)
        except Exists:
            return failure(409, "AlreadyExists", f'{resource} "{name}" already exists', name=name, kind=resource)
        except Changed:
            text = "the object has been modified; please apply your changes to the latest version and try again"
            return failure(409, "Conflict", f'Operation cannot be fulfilled on {resource} "{name}": {text}')
        except StoreError as error:
            return failure(500, "InternalError", str(error))
        except (ValueError, KeyError, TypeError, IndexError) as error:
            return failure(400, "BadRequest", f"the request cannot be used: {error!r}")

    def _act(self, request: Request, resource: str, namespace: str, name: str) -> Answer:
        if request.method in ("GET", "HEAD"):
            return self._one(resource, namespace, name) if name else self._all(resource, namespace)
        if request.method == "POST" and not name:
            return self._create(resource, namespace, json.loads(request.body))
        if request.method == "PUT" and name:
            return self._replace(resource, namespace, name, lambda _: json.loads(request.body))
        if request.method == "PATCH" and name:
            patch = json.loads(request.body)
            if request.content_type == "application/json-patch+json":
                return self._replace(resource, namespace, name, lambda thing: json_patch(thing, patch))
            return self._replace(resource, namespace, name, lambda thing: merge(thing, patch))
        if request.method == "DELETE" and name:
            return self._delete(resource, namespace, name)
        return failure(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")

    def _one(self, resource: str, namespace: str, name: str) -> Answer:
        item = self.store.get(key(resource, namespace, name))
        if item is None:
            raise Missing(name)
        return json_answer(read(item))

    def _all(self, resource: str, namespace: str) -> Answer:
        revision, items = self.store.below(key(resource, namespace, ""))
        things = [read(item) for item in items]
        for thing in things:
            thing.pop("apiVersion", None)
            thing.pop("kind", None)
        return json_answer(
            {
                "kind": f"{KINDS[resource]}List",
                "apiVersion": "v1",
                "metadata": {"resourceVersion": str(revision)},
                "items": things,
            }
        )

    def _create(self, resource: str, namespace: str, thing: dict[str, Any]) -> Answer:
        meta = thing.setdefault("metadata", {})
        if namespace:
            meta["namespace"] = namespace
        if not meta.get("name"):
            meta["name"] = meta["generateName"] + uuid.uuid4().hex[:5]
        thing.update(kind=KINDS[resource], apiVersion="v1")
        meta.update(uid=str(uuid.uuid4()), creationTimestamp=now())
        if "stringData" in thing:
            import base64

            encoded = {k: base64.b64encode(v.encode()).decode() for k, v in thing.pop("stringData").items()}
            thing["data"] = {**thing.get("data", {}), **encoded}
        lease = 3660 if resource == "events" else 0
        revision = self.store.create(key(resource, namespace, meta["name"]), stored(thing), lease)
        meta["resourceVersion"] = str(revision)
        return json_answer(thing, 201)

    def _replace(self, resource: str, namespace: str, name: str, change: Any) -> Answer:
        """Read, change, write if unchanged; again when the writer named no version itself."""
        place = key(resource, namespace, name)
        for _ in range(20):
            item = self.store.get(place)
            if item is None:
                raise Missing(name)
            before = read(item)
            after = change(copy.deepcopy(before))
            meta = after.setdefault("metadata", {})
            given = meta.get("resourceVersion")
            if given and given != str(item.mod_revision):
                raise Changed(name)
            kept = ("uid", "creationTimestamp", "name", "namespace", "deletionTimestamp")
            meta.update({k: v for k, v in before["metadata"].items() if k in kept})
            after.update(kind=KINDS[resource], apiVersion="v1")
            if stored(after) == stored(before):
                return json_answer(before)
            try:
                if meta.get("deletionTimestamp") and not meta.get("finalizers"):
                    revision = self.store.delete(place, item.mod_revision)
                else:
                    revision = self.store.update(place, stored(after), item.mod_revision, ttl(item, self.store))
            except Changed:
                continue
            meta["resourceVersion"] = str(revision)
            return json_answer(after)
        raise Changed(name)

    def _delete(self, resource: str, namespace: str, name: str) -> Answer:
        """With finalizers the object stays, marked, until a controller took them off ("Seen" 12)."""
        place = key(resource, namespace, name)
        for _ in range(20):
            item = self.store.get(place)
            if item is None:
                raise Missing(name)
            thing = read(item)
            meta = thing["metadata"]
            try:
                if not meta.get("finalizers"):
                    self.store.delete(place, item.mod_revision)
                    return json_answer({
                        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
                        "details": {"name": name, "kind": resource, "uid": meta.get("uid")},
                    })  # fmt: skip
                if not meta.get("deletionTimestamp"):
                    meta.update(deletionTimestamp=now(), deletionGracePeriodSeconds=0)
                    meta["resourceVersion"] = str(self.store.update(place, stored(thing), item.mod_revision))
                return json_answer(thing)
            except Changed:
                continue
        raise Changed(name)


def ttl(item: Item, store: Store) -> int:
    """The lease an update keeps: kine's column holds the TTL itself; etcd's lease is not kept."""
    return item.lease if store.name == "sqlite" else 0
