from __future__ import annotations

from pathlib import Path

from k3s_ha_agent.operations.interruptions import page

DOCUMENT = Path(__file__).parents[3] / "docs/interruptions.md"


def test_the_page_is_what_the_plans_say() -> None:
    assert DOCUMENT.read_text() == page(), (
        "run: python -m k3s_ha_agent.operations.interruptions > docs/interruptions.md"
    )


def test_every_step_says_what_is_on_disk_and_what_to_do() -> None:
    for line in page().splitlines():
        assert not line.endswith(("On disk:** ", "By hand:** ")), line
