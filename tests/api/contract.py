"""Holds every answer of the API against openapi.yaml. ``Running.ask`` does it for each call of every test."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import jsonschema
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

from k3s_ha_agent.api import contract

DOCUMENT: dict[str, Any] = contract.parse(contract.PATH.read_bytes())
BASE = "urn:contract"
REGISTRY: Registry[Any] = Registry().with_resource(BASE, Resource(DOCUMENT, DRAFT202012))


def resolve(node: Any) -> Any:
    while isinstance(node, dict) and "$ref" in node:
        found = DOCUMENT
        for part in node["$ref"].removeprefix("#/").split("/"):
            found = found[part]
        node = found
    return node


@functools.cache
def _validator(schema: str) -> jsonschema.Draft202012Validator:
    absolute = schema.replace('"$ref": "#/', f'"$ref": "{BASE}#/')
    checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
    return jsonschema.Draft202012Validator(json.loads(absolute), registry=REGISTRY, format_checker=checker)


def validate(value: Any, schema: Mapping[str, Any], where: str) -> None:
    errors = [f"{where}: {e.json_path} {e.message}" for e in _validator(json.dumps(schema)).iter_errors(value)]
    assert errors == []


@functools.cache
def _patterns() -> list[tuple[re.Pattern[str], str]]:
    one_name = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}"
    return [
        (re.compile(one_name.join(re.escape(part) for part in re.split(r"\{\w+\}", path))), path)
        for path in DOCUMENT["paths"]
    ]


def events(text: str) -> Iterator[dict[str, str]]:
    """The events of a stream, by the names of their fields. ``retry`` alone is none."""
    for block in text.split("\n\n"):
        lines = [line for line in block.splitlines() if line and not line.startswith(":")]
        fields = {name: value.removeprefix(" ") for name, _, value in (line.partition(":") for line in lines)}
        if "data" in fields:
            yield fields


def path_of(target: str) -> str | None:
    """The path of the contract a target belongs to."""
    path = target.partition("?")[0]
    return next((template for pattern, template in _patterns() if pattern.fullmatch(path)), None)


def check(method: str, target: str, status: int, headers: Mapping[str, str], content_type: str, body: Any) -> None:
    """Fails when the contract does not have this answer. A HEAD is held to what is said of GET, without a body."""
    where = f"{method} {target}: {status}"
    path = path_of(target)
    operation = DOCUMENT["paths"].get(path, {}).get("get" if method == "HEAD" else method.lower()) if path else None
    if operation is None:
        assert status in (400, 401, 403, 404, 405, 503), where
        answer = resolve(DOCUMENT["components"]["responses"][str(status)])
    else:
        assert str(status) in operation["responses"], f"{where} is not in the contract"
        answer = resolve(operation["responses"][str(status)])
    for name, header in answer.get("headers", {}).items():
        assert not header.get("required") or name in headers, f"{where} has no {name}"
        if name in headers:
            of_type = int(headers[name]) if header["schema"]["type"] == "integer" else headers[name]
            validate(of_type, header["schema"], f"{where} {name}")
    assert content_type in answer["content"], f"{where} is {content_type}"
    if method != "HEAD" and content_type == "text/event-stream":
        for event in events(body):
            validate(event, DOCUMENT["components"]["schemas"]["ServerSentEvent"], where)
            validate(json.loads(event["data"]), DOCUMENT["components"]["schemas"]["Event"], where)
    elif method != "HEAD":
        validate(body, answer["content"][content_type]["schema"], where)
