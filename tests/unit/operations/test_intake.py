"""What may be waited for, and what may not; tokens that are none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from k3s_ha_agent.errors import InvalidBody
from k3s_ha_agent.model import CheckResult, CheckStatus, Kind
from k3s_ha_agent.operations import requests
from k3s_ha_agent.operations.intake import Findings, Intake, waited_for
from k3s_ha_agent.settings import Settings

REFUSED, WARNED = CheckStatus.REFUSED, CheckStatus.WARNED


def statuses(*refused: str) -> dict[str, CheckStatus]:
    found = waited_for(Findings(tuple(CheckResult(name, REFUSED, "") for name in refused), {}))
    return {c.name: c.status for c in found.checks}


def test_a_pending_learner_and_its_ports_can_be_waited_for() -> None:
    assert statuses("pending-learner", "server-ports") == {"pending-learner": WARNED, "server-ports": WARNED}


def test_anything_else_refuses_still() -> None:
    assert statuses("pending-learner", "token-accepted")["token-accepted"] is REFUSED


def test_closed_ports_without_a_learner_refuse() -> None:
    assert statuses("server-ports") == {"server-ports": REFUSED}


@pytest.mark.parametrize("token", ["", " \n", "K10abc::server:secret", "abcdef.0123456789abcdef"])
@pytest.mark.parametrize("by_file", [False, True])
async def test_a_token_that_is_none_is_the_callers_slip(tmp_path: Path, token: str, by_file: bool) -> None:
    (tmp_path / "token").write_text(token)
    given = {"token_file": str(tmp_path / "token")} if by_file else {"token": token}
    error = await refusal({"server": "https://10.0.0.1:6443", **given})
    assert error.extensions["key"] in given
    assert "secret" not in str(error) and "abcdef" not in str(error)


async def test_a_token_file_with_no_name() -> None:
    error = await refusal({"server": "https://10.0.0.1:6443", "token_file": "\0"})
    assert error.extensions["key"] == "token_file"


async def refusal(body: dict[str, Any]) -> InvalidBody:
    """What a request is told before anything is looked at."""
    outside: Any = None
    intake = Intake(Settings(), outside, outside)
    with pytest.raises(InvalidBody) as error:
        await intake.draft(Kind.JOIN, requests.parse(Kind.JOIN, body), operation_id="x", history=(), boot_id="")
    return error.value
