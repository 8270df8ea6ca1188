"""Bodies: what is refused, and what never becomes part of a record."""

from __future__ import annotations

from typing import Any

import pytest

from k3s_ha_agent.errors import InvalidBody, NotImplementedYet
from k3s_ha_agent.model import Kind
from k3s_ha_agent.operations import requests

NO_SERVERS = (
    "https://[::1",
    "https://:password@10.0.0.1:6443",
    "https://10.0.0.1:6443?a=b",
    "https://10.0.0.1:6443#a",
    "https://10.0.0.1\n:6443",
    "https://10.0.0 1:6443",
)
JOIN = {"server": "https://10.0.0.1:6443", "token": "K10abc::server:secret"}


@pytest.mark.parametrize(
    ("kind", "body", "key"),
    [
        (Kind.MIGRATE, {"tiemout": "5m"}, "tiemout"),
        (Kind.MIGRATE, {"timeout": 300}, "timeout"),
        (Kind.MIGRATE, {"timeout": "5 minutes"}, "timeout"),
        (Kind.MIGRATE, {"timeout": "48h"}, "timeout"),
        (Kind.MIGRATE, {"timeout": "\u0663s"}, "timeout"),
        (Kind.MIGRATE, {"accept_slow_disk": "yes"}, "accept_slow_disk"),
        (Kind.MIGRATE, {"method": "magic"}, "method"),
        (Kind.MIGRATE, {"dry_run": 1}, "dry_run"),
        (Kind.ROLLBACK, {"writes": "some"}, "writes"),
        (Kind.JOIN, {"server": "http://10.0.0.1:6443", "token": "t"}, "server"),
        (Kind.JOIN, {"server": "https://user@10.0.0.1:6443", "token": "t"}, "server"),
        *((Kind.JOIN, {"server": server, "token": "t"}, "server") for server in NO_SERVERS),
        (Kind.JOIN, {"server": "https://10.0.0.1:6443"}, "token_file"),
        (Kind.JOIN, {**JOIN, "token_file": "/x"}, "token_file"),
        (Kind.JOIN, {**JOIN, "on_conflict": "fight"}, "on_conflict"),
    ],
)
def test_refused(kind: Kind, body: dict[str, Any], key: str) -> None:
    with pytest.raises(InvalidBody) as error:
        requests.parse(kind, body)
    assert error.value.extensions["key"] == key


def test_staged_says_that_it_is_not_built() -> None:
    with pytest.raises(NotImplementedYet):
        requests.parse(Kind.MIGRATE, {"method": "staged"})


def test_a_token_is_in_nothing_that_is_kept() -> None:
    request = requests.parse(Kind.JOIN, JOIN)
    assert "secret" not in repr(request)
    assert "secret" not in str(requests.parameters(request))
    assert requests.digest(Kind.JOIN, JOIN) == requests.digest(Kind.JOIN, {**JOIN, "token": "another"})


def test_parameters_are_what_was_said() -> None:
    request = requests.parse(Kind.MIGRATE, {"timeout": "90s", "stability": "2s"})
    assert requests.parameters(request) == {
        "method": "native", "timeout": "1m30s", "stability": "2s", "accept_slow_disk": False
    }  # fmt: skip
