"""What a run looks like on terminals of 60, 80 and 120 columns."""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path

import pytest

from k3s_ha_agent.fleet.outcome import Ending, Result
from k3s_ha_agent.fleet.picture import _picture, console
from k3s_ha_agent.fleet.report import Report, Row
from tests.unit.ctl.test_terminal import Terminal

WIDTHS = [60, 80, 120]
CONTROL = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")
WHY = (
    "c: join 20261123t104226-join-319076 was rolled back: data-equal: 1 missing, /registry/configmaps/seeded/seed-00042"
)
NEXT = "k3s-ha-agentctl operations 20261123t104226-join-319076"
DRAW = """\
import json, sys
from k3s_ha_agent.fleet import picture
given = json.load(open(sys.argv[1]))
picture.table(sys.stdout, given["columns"], given["rows"], no_color=False)
"""


@pytest.mark.parametrize("width", WIDTHS)
def test_the_picture_fits(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    report = Report("edge", None)
    report.heading = "wave 12 of 30"
    for number in range(12):
        report.rows[f"hamburg-{number}"] = Row(f"hamburg-{number}", "wave 12", 3, began=0.0)
    endings = [Ending("hamburg-0", Result.ROLLED_BACK, WHY, NEXT), Ending("hamburg-1", Result.DONE, "3 voters")]
    for ending in (*endings, Ending("hamburg-2", Result.ROLLBACK_FAILED, WHY)):
        report.end(ending)
    report.rows["hamburg-3"].server = "a"
    report.rows["hamburg-3"].doing = (
        "migrate start-k3s 700 of 3041 keys, with a sentence far too long for any terminal " * 3
    )
    monkeypatch.setenv("COLUMNS", str(width))
    screen = console(io.StringIO(), no_color=True)
    with screen.capture() as captured:
        screen.print(_picture(report, screen.width))
    lines = [line.rstrip() for line in captured.get().splitlines()]
    assert [line for line in lines if len(line) > width] == []
    assert lines[0].startswith("wave 12 of 30  ━") and lines[0].endswith("  3 of 12 clusters")
    assert lines[1] == "1 rolled back  1 done  1 rollback failed"
    shown = [line.split()[:3] for line in lines[2:]]
    assert [row[0] for row in shown] == [f"hamburg-{number}" for number in range(12)], "a line for each, whole"
    assert [row[2] for row in shown[:4]] == ["rolled_back", "done", "rollback_failed", "running"]


@pytest.mark.parametrize("width", WIDTHS)
def test_the_table_fits(width: int, tmp_path: Path) -> None:
    rows = [("store-0042-hamburg-altona", "rolled_back", WHY, NEXT), ("hamburg-2", "rollback_failed", WHY, "")]
    given = tmp_path / "given.json"
    given.write_text(json.dumps({"columns": ["cluster", "result", "why", "next"], "rows": rows}))
    terminal = Terminal([sys.executable, "-c", DRAW, str(given)], width=width)
    assert terminal.end() == 0, terminal.text
    lines = [CONTROL.sub("", line) for line in terminal.text.replace("\r", "").splitlines()]
    assert [line for line in lines if len(line) > width] == []
    for row in rows:
        assert any(line.split()[:2] == list(row[:2]) for line in lines), "names and words are whole"
    assert not any("…" in line for line in lines), "sentences are wrapped, not cut"
    assert any("next: " in line for line in lines) == (width < 100)
