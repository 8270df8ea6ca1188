"""What may be waited for, and what may not."""

from __future__ import annotations

from k3s_ha_agent.model import CheckResult, CheckStatus
from k3s_ha_agent.operations.intake import Findings, waited_for

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
