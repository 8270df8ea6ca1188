"""One look at the recorded database for all tests here."""

from __future__ import annotations

import pytest

from k3s_ha_agent.k3s.kine import KineSummary
from tests.unit.preflight.subjects import recorded_summary


@pytest.fixture(scope="session")
def summary(tmp_path_factory: pytest.TempPathFactory) -> KineSummary:
    return recorded_summary(tmp_path_factory.mktemp("recorded-sqlite"))
