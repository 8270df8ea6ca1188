"""What is shown is what somebody decided to show."""

from __future__ import annotations

import dataclasses

import pytest

from k3s_ha_agent.api import problems
from k3s_ha_agent.api.view import SHOWN, show
from k3s_ha_agent.errors import PreflightFailed
from k3s_ha_agent.model import CheckResult, CheckStatus, Kind, Operation, StepRecord

KEPT_INSIDE = {Operation: {"idempotency_key", "request_digest", "rescue"}}
"""Fields somebody decided not to show. A new field of the model must go here or into ``SHOWN``."""


@pytest.mark.parametrize("shown", SHOWN, ids=lambda c: c.__name__)
def test_every_field_was_decided_on(shown: type) -> None:
    fields = {field.name for field in dataclasses.fields(shown)}
    assert fields == set(SHOWN[shown]) | KEPT_INSIDE.get(shown, set())
    assert set(SHOWN[shown]).isdisjoint(KEPT_INSIDE.get(shown, set()))


@dataclasses.dataclass(frozen=True)
class Secretive(StepRecord):
    token: str = "K10abc"


def test_a_class_nobody_decided_on_is_not_shown() -> None:
    for value in (Secretive("x"), object(), b"bytes", {"deep": [Secretive("x")]}):
        with pytest.raises(TypeError, match="not shown"):
            show(value)


def operation(**facts: object) -> Operation:
    return Operation("op-1", Kind.MIGRATE, {"token_file": "/x"}, "2026-01-01T00:00:00Z", (), facts=facts)


def test_a_second_lock_on_free_form_members() -> None:
    shown = show(operation(a=[{"serverToken": "x"}], PASSWORD="x", private_key="x", secretName="x", digest="abc"))
    hidden = "(not shown)"
    assert shown["facts"] == {
        "a": [{"serverToken": hidden}],
        "PASSWORD": hidden,
        "private_key": hidden,
        "secretName": hidden,
        "digest": "abc",
    }
    assert shown["parameters"] == {"token_file": hidden}


def test_problems_show_what_is_allowed_and_keep_their_members() -> None:
    checks = [CheckResult("version", CheckStatus.OK, "v1.22.2")]
    error = PreflightFailed("no", checks=checks, code="other", status=1, odd=Secretive("x"))
    body = problems.response(error, "/v1/migrate").text or ""
    assert '"code": "preflight-failed"' in body
    assert '"status": 412' in body
    assert '"found": "v1.22.2"' in body
    assert "K10abc" not in body
    assert "(Secretive)" in body
