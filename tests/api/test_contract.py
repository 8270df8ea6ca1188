"""openapi.yaml agrees with the route table, the model, the requests and the error classes."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from typing import Any, get_args

import jsonschema
import pytest

from k3s_ha_agent import model
from k3s_ha_agent.api import requests as api_requests
from k3s_ha_agent.api import view
from k3s_ha_agent.api.routes import table
from k3s_ha_agent.errors import AgentError, AgentUnreachable, UnknownProblem
from k3s_ha_agent.operations import requests
from tests.api.conftest import Start
from tests.api.contract import BASE, DOCUMENT, REGISTRY, resolve, validate
from tests.packaging.build import CHECKOUT

ROUTES = table(None, None)  # type: ignore[arg-type]
SCHEMAS = DOCUMENT["components"]["schemas"]
METHODS = ("get", "post", "delete", "put", "patch", "head", "options")


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in DOCUMENT["paths"].items():
        for method in METHODS:
            if method in item:
                yield method.upper(), path, item[method]


def families(of: type[AgentError] = AgentError) -> Iterator[type[AgentError]]:
    yield of
    for sub in of.__subclasses__():
        yield from families(sub)


OF_CLIENTS = (AgentUnreachable, UnknownProblem)
ERRORS = {e.code: e for e in families() if e.__module__ == "k3s_ha_agent.errors" and e not in OF_CLIENTS}


def test_packaging_has_the_same_file() -> None:
    assert (CHECKOUT / "packaging/openapi.yaml").resolve() == CHECKOUT / "k3s_ha_agent/api/openapi.yaml"


def test_every_route_is_there_and_no_other() -> None:
    routes = {(r.method, re.sub(r"\{id:.*\}\}", "{id}", r.path)): r.role.value for r in ROUTES}
    assert {(method, path): o["x-role"] for method, path, o in operations()} == routes


def test_operations_are_named_once_and_say_what_they_do() -> None:
    names = [o["operationId"] for _, _, o in operations()]
    assert len(set(names)) == len(names)
    tags = {tag["name"] for tag in DOCUMENT["tags"]}
    for _, path, operation in operations():
        assert operation["summary"] and set(operation["tags"]) <= tags, path


def test_every_error_code_is_documented_once() -> None:
    assert DOCUMENT["x-problem-codes"].keys() == ERRORS.keys()
    assert all(text.endswith(".") for text in DOCUMENT["x-problem-codes"].values())


def test_every_error_code_stands_at_its_status() -> None:
    by_status: dict[str, set[str]] = {}
    for error in ERRORS.values():
        by_status.setdefault(str(error.status), set()).add(error.code)
    found = {
        status: set(answer["content"]["application/problem+json"]["schema"]["properties"]["code"]["enum"])
        for status, answer in DOCUMENT["components"]["responses"].items()
        if status.isdigit()
    }
    assert found == by_status
    for status, answer in DOCUMENT["components"]["responses"].items():
        if status.isdigit():
            schema = answer["content"]["application/problem+json"]["schema"]
            assert schema["properties"]["status"]["const"] == int(status)


def test_answers_stand_at_their_own_status() -> None:
    for method, path, operation in operations():
        for status, answer in operation["responses"].items():
            if int(status) >= 400:
                assert answer == {"$ref": f"#/components/responses/{status}"}, (method, path)
        changes = operation["x-role"] == "admin"
        assert changes == ("429" in operation["responses"]), path
        assert {"400", "401", "403", "500", "503"} <= operation["responses"].keys(), path
        assert ("requestBody" in operation) == (method == "POST") == ("413" in operation["responses"]), path


@pytest.mark.parametrize("name", ["Kind", "Outcome", "Phase", "StepStatus", "Datastore", "CheckStatus"])
def test_words_are_those_of_the_model(name: str) -> None:
    assert SCHEMAS[name]["enum"] == [member.value for member in getattr(model, name)]


SHOWN = {
    "Operation": view.SHOWN[model.Operation],
    "OperationSummary": view.SUMMARY,
    "Step": view.SHOWN[model.StepRecord],
    "Progress": view.SHOWN[model.Progress],
    "Evidence": view.SHOWN[model.Evidence],
    "Check": view.SHOWN[model.CheckResult],
    "Event": view.SHOWN[model.Event],
    "Node": view.SHOWN[model.NodeState],
    "Cluster": view.SHOWN[model.ClusterView],
    "Member": view.SHOWN[model.ClusterMember],
    "Quorum": view.SHOWN[model.Quorum],
}


@pytest.mark.parametrize("name", SHOWN)
def test_what_is_shown_is_what_is_described(name: str) -> None:
    assert tuple(SCHEMAS[name]["properties"]) == tuple(SCHEMAS[name]["required"]) == SHOWN[name]
    assert SCHEMAS[name]["additionalProperties"] is False
    assert len(SHOWN) == len(view.SHOWN) + 1, "a class that is shown is missing above"


@pytest.mark.parametrize("name", [c.__name__ for c in get_args(requests.Request)])
def test_bodies_are_those_that_are_read(name: str) -> None:
    fields = {f.name: f for f in dataclasses.fields(getattr(requests, name))}
    described = SCHEMAS[name]["properties"]
    assert described.keys() == fields.keys() | {"dry_run"}
    assert SCHEMAS[name]["additionalProperties"] is False
    for key, field in fields.items():
        default = None if field.default is None else field.default
        assert described[key].get("default") == default, key


def test_limits_are_those_in_force() -> None:
    limit = DOCUMENT["paths"]["/v1/operations"]["get"]["parameters"][0]["schema"]
    assert (limit["maximum"], limit["default"]) == (api_requests.LIST_LIMIT, api_requests.LIST_DEFAULT)
    assert f"{api_requests.BODY_LIMIT // 1024} KiB" in DOCUMENT["components"]["responses"]["413"]["description"]


def test_schemas_are_schemas() -> None:
    for schema in SCHEMAS.values():
        jsonschema.Draft202012Validator.check_schema(schema)


def test_every_reference_leads_somewhere_and_every_component_is_used() -> None:
    used = set(re.findall(r"\$ref': '(#/[^']+)'", str(DOCUMENT)))
    for reference in used:
        resolve({"$ref": reference})
    there = {
        f"#/components/{kind}/{name}"
        for kind in ("parameters", "responses", "schemas")
        for name in DOCUMENT["components"][kind]
    }
    # Said once for all paths.
    assert there - used == {"#/components/responses/405"}


def examples() -> Iterator[tuple[str, Any, Any]]:
    for method, path, operation in operations():
        bodies = [(path, operation["requestBody"])] if "requestBody" in operation else []
        bodies += [(f"{path} {s}", resolve(a)) for s, a in operation["responses"].items()]
        for where, body in bodies:
            for content in body["content"].values():
                assert content["examples"], where
                for name, example in content["examples"].items():
                    yield f"{method} {where} {name}", example["value"], content["schema"]


def test_every_example_is_valid() -> None:
    for where, value, schema in examples():
        validate(value, schema, where)
        if isinstance(value, dict) and "contentSchema" in str(resolve(schema)):
            validate(json.loads(value["data"]), SCHEMAS["Event"], where)
        if isinstance(value, dict) and "code" in value:
            error = ERRORS[value["code"]]
            assert (value["title"], value["status"]) == (error.title, error.status), where
            assert value["type"].endswith(f":{error.code}")


def test_the_validator_finds_what_is_wrong() -> None:
    validator = jsonschema.Draft202012Validator({"$ref": f"{BASE}#/components/schemas/Check"}, registry=REGISTRY)
    good = {"name": "a", "status": "ok", "found": "", "needs": "", "remedy": ""}
    assert validator.is_valid(good)
    for bad in ({**good, "more": 1}, {**good, "status": "fine"}, {k: v for k, v in good.items() if k != "needs"}):
        assert not validator.is_valid(bad)
    for value in ("30", "", "5 m", "1y"):
        with pytest.raises(AssertionError):
            validate(value, SCHEMAS["Duration"], "")


async def test_it_is_served_from_the_start(start: Start) -> None:
    api = await start(ready=lambda: False)
    status, document, response = await api.ask("GET", "/v1/openapi.json")
    assert (status, response.content_type) == (200, "application/json")
    assert document == DOCUMENT
