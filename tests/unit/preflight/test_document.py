"""docs/preflight.md is what the checks say of themselves."""

from __future__ import annotations

from pathlib import Path

from k3s_ha_agent.preflight.document import render
from k3s_ha_agent.preflight.run import registry

DOCUMENT = Path(__file__).parents[3] / "docs/preflight.md"


def test_the_document_is_up_to_date() -> None:
    assert DOCUMENT.read_text() == render(), "python3 -m k3s_ha_agent.preflight.document > docs/preflight.md"


def test_every_check_is_in_it() -> None:
    text = DOCUMENT.read_text()
    assert all(f"| `{check.name}` |" in text for check in registry())
    for row in text.splitlines():
        if row.startswith("| `"):
            assert row.replace("\\|", "").count("|") == 7, row
