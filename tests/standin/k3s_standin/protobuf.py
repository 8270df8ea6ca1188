"""Stored Kubernetes objects as JSON: protobuf values read by small tables, JSON passed through.

The API server stores ``k8s\\0`` + Unknown{1: TypeMeta{1: apiVersion, 2: kind}, 2: raw object}.
Field numbers are those of k8s.io/api's generated.proto; kinds not listed show their metadata only.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator, Mapping
from typing import Any

PREFIX = b"k8s\0"

# A table: field number -> (name, what it is). What: "text", "number", "flag", "time", "quantity",
# a table (a message); [what] repeated; {"of": what} a map from text.
Table = Mapping[int, tuple[str, Any]]

_META: Table = {
    1: ("name", "text"), 2: ("generateName", "text"), 3: ("namespace", "text"), 5: ("uid", "text"),
    7: ("generation", "number"), 8: ("creationTimestamp", "time"), 9: ("deletionTimestamp", "time"),
    11: ("labels", {"of": "text"}), 12: ("annotations", {"of": "text"}), 14: ("finalizers", ["text"]),
}  # fmt: skip
_CONDITION: Table = {
    1: ("type", "text"), 2: ("status", "text"), 3: ("lastHeartbeatTime", "time"),
    4: ("lastTransitionTime", "time"), 5: ("reason", "text"), 6: ("message", "text"),
}  # fmt: skip
_INFO: Table = {
    1: ("machineID", "text"), 2: ("systemUUID", "text"), 3: ("bootID", "text"), 4: ("kernelVersion", "text"),
    5: ("osImage", "text"), 6: ("containerRuntimeVersion", "text"), 7: ("kubeletVersion", "text"),
    8: ("kubeProxyVersion", "text"), 9: ("operatingSystem", "text"), 10: ("architecture", "text"),
}  # fmt: skip
_TAINT: Table = {1: ("key", "text"), 2: ("value", "text"), 3: ("effect", "text"), 4: ("timeAdded", "time")}
_STATUS: Table = {
    1: ("capacity", {"of": "quantity"}), 2: ("allocatable", {"of": "quantity"}), 4: ("conditions", [_CONDITION]),
    5: ("addresses", [{1: ("type", "text"), 2: ("address", "text")}]),
    6: ("daemonEndpoints", {1: ("kubeletEndpoint", {1: ("Port", "number")})}), 7: ("nodeInfo", _INFO),
}  # fmt: skip
_SPEC: Table = {
    1: ("podCIDR", "text"), 3: ("providerID", "text"), 4: ("unschedulable", "flag"), 5: ("taints", [_TAINT]),
    7: ("podCIDRs", ["text"]),
}  # fmt: skip
_KINDS: Mapping[str, Table] = {
    "Node": {1: ("metadata", _META), 2: ("spec", _SPEC), 3: ("status", _STATUS)},
    "ConfigMap": {1: ("metadata", _META), 2: ("data", {"of": "text"}), 3: ("binaryData", {"of": "bytes"})},
    "Secret": {1: ("metadata", _META), 2: ("data", {"of": "bytes"}), 3: ("type", "text")},
}
_OTHER: Table = {1: ("metadata", _META)}


def decode(value: bytes) -> dict[str, Any]:
    """The object of a stored value. ValueError when it is neither form."""
    if not value.startswith(PREFIX):
        content = json.loads(value)
        if not isinstance(content, dict):
            raise ValueError("not an object")
        return content
    unknown = dict(fields(value[len(PREFIX) :]))
    kind_of = dict(fields(_bytes(unknown[1])))
    kind = _bytes(kind_of[2]).decode()
    found: dict[str, Any] = {"apiVersion": _bytes(kind_of[1]).decode(), "kind": kind}
    found.update(_message(_bytes(unknown[2]), _KINDS.get(kind, _OTHER)))
    return found


def encode_json(thing: Mapping[str, Any]) -> bytes:
    return json.dumps(thing, separators=(",", ":"), sort_keys=True, ensure_ascii=False).encode()


def fields(data: bytes) -> Iterator[tuple[int, bytes | int]]:
    """(field number, bytes or number) of a message."""
    position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value, position = _varint(data, position)
            yield number, value
        elif wire == 2:
            length, position = _varint(data, position)
            if position + length > len(data):
                raise ValueError("truncated protobuf message")
            yield number, data[position : position + length]
            position += length
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
            yield number, data[position : position + size]
            position += size
        else:
            raise ValueError(f"protobuf wire type {wire}")


def message(*parts: tuple[int, bytes | str | int]) -> bytes:
    """A message of bytes, text and numbers; the opposite of ``fields``."""
    out = bytearray()
    for number, value in parts:
        if isinstance(value, int):
            out += _number(number << 3) + _number(value)
        else:
            data = value.encode() if isinstance(value, str) else value
            out += _number(number << 3 | 2) + _number(len(data)) + data
    return bytes(out)


def lease(namespace: str, name: str, holder: str) -> bytes:
    """A coordination.k8s.io/v1 Lease renewed now, stored as the API server does."""
    now = time.time_ns()
    moment = message((1, now // 10**9), (2, now % 10**9))
    raw = message(
        (1, message((1, name), (3, namespace))),
        (2, message((1, holder), (2, 40), (4, moment))),
    )
    return PREFIX + message((1, message((1, "coordination.k8s.io/v1"), (2, "Lease"))), (2, raw), (3, b""), (4, b""))


def _message(data: bytes, table: Table) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for number, part in fields(data):
        if number not in table:
            continue
        name, what = table[number]
        if isinstance(what, list):
            found.setdefault(name, []).append(_value(part, what[0]))
        elif isinstance(what, dict) and "of" in what:
            pair = dict(fields(_bytes(part)))
            found.setdefault(name, {})[_bytes(pair.get(1, b"")).decode()] = _value(pair.get(2, b""), what["of"])
        else:
            value = _value(part, what)
            if value not in ("", None) and not (value == 0 and what == "number"):
                found[name] = value
    return found


def _value(part: bytes | int, what: Any) -> Any:
    if what == "text":
        return _bytes(part).decode()
    if what == "number":
        return part
    if what == "flag":
        return bool(part) or None
    if what == "bytes":
        return base64.b64encode(_bytes(part)).decode()
    if what == "time":
        pair = dict(fields(_bytes(part)))
        seconds = pair.get(1)
        return None if seconds is None else time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(int(seconds)))
    if what == "quantity":
        return _bytes(dict(fields(_bytes(part))).get(1, b"")).decode()
    return _message(_bytes(part), what)


def _bytes(part: bytes | int) -> bytes:
    if isinstance(part, int):
        raise ValueError("a number where bytes are needed")
    return part


def _varint(data: bytes, position: int) -> tuple[int, int]:
    result = shift = 0
    while True:
        if position >= len(data):
            raise ValueError("truncated protobuf number")
        byte = data[position]
        position += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result, position
        shift += 7


def _number(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
