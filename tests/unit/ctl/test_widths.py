"""Tables and the live picture fit the terminal: 60, 80 and 120 columns of a real one (a pty)."""

from __future__ import annotations

import datetime
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from k3s_ha_agent.ctl.commands import CHECKS
from k3s_ha_agent.ctl.follow import Update
from k3s_ha_agent.ctl.output import Output
from k3s_ha_agent.ctl.views import LiveView
from tests.unit.ctl.test_terminal import COLOUR, Terminal

WIDTHS = [60, 80, 120]
CONTROL = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")
DRAW = """\
import json, sys
from k3s_ha_agent.ctl.output import Output
given = json.load(open(sys.argv[1]))
output = Output(as_json=False, no_color=False)
output.facts(given["facts"]) if "facts" in given else output.table(given["columns"], given["rows"])
"""
FOUND = "state.db has 3041 live keys in 12.4 MiB; its WAL, 4.1 MiB, has not been written back, which is no harm"
REMEDY = "Move /var/lib/rancher/k3s/server/db/etcd-old-2026-11-23T10:42:26 away, or give etcd a disk of its own."
EVIDENCE = [
    ("copy-finished", "ok", "state.db became state.db.migrated, inode 1311262", "state.db renamed, its inode kept"),
    ("member-is-voter", "ok", "n1-4ac1e0b7 is a voter, 1 of 1", "this server a voter, no other member"),
    (
        "data-equal",
        "FALSE",
        f"1 missing: /registry/configmaps/seeded/seed-00042; {FOUND}",
        "3041 keys, sha256 9f86d081",
    ),
]
TABLES: dict[str, dict[str, Any]] = {
    "evidence": {"columns": ("evidence", "result", "found", "needed"), "rows": EVIDENCE},
    "checks": {
        "columns": CHECKS,
        "rows": [
            ("kine-sound", "ok", FOUND, "", ""),
            ("leftovers-of-a-migration", "refused", FOUND, "no file that k3s would take for a datastore", REMEDY),
        ],
    },
    "steps": {
        "columns": ("step", "status", "took", "progress", "error"),
        "rows": [("save-pre-image", "done", "159ms", "", ""), ("prove", "failed", "1m2s", "700 of 3041 keys", FOUND)],
    },
    "operations": {
        "columns": ("id", "kind", "outcome", "began", "reason"),
        "rows": [("20261123t104226-migrate-319076", "migrate", "rolled_back", "2026-11-23T10:42:26.112358Z", FOUND)],
    },
    "members": {
        "columns": ("member", "node", "address", "is", "answers", "healthy"),
        "rows": [("n1-4ac1e0b7", "n1", "10.89.0.11", "leader", "yes", "yes")] * 3,
    },
    "facts": {"facts": [("node", "n1 (ready)"), ("datastore", FOUND), ("to do", f"Please {REMEDY}")]},
}


def drawn(given: dict[str, Any], width: int, tmp_path: Path, **variables: str) -> list[str]:
    """What a table of these looks like on a terminal that is so wide, line by line, with its colours."""
    path = tmp_path / "given.json"
    path.write_text(json.dumps(given))
    terminal = Terminal([sys.executable, "-c", DRAW, str(path)], width=width, **variables)
    assert terminal.end() == 0, terminal.text
    return terminal.text.replace("\r", "").splitlines()


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", TABLES)
def test_a_table_fits(name: str, width: int, tmp_path: Path) -> None:
    given = TABLES[name]
    lines = [CONTROL.sub("", line) for line in drawn(given, width, tmp_path)]
    # A path that is longer than a line is left to the terminal, which does not break it for those who copy it.
    assert [line for line in lines if len(line) > width and (name != "facts" or len(line.split()) > 1)] == []
    text = "\n".join(lines)
    rows = given.get("rows") or given["facts"]
    for row in rows:
        for column, cell in zip(given.get("columns", ("name", "found")), row, strict=True):
            if column not in ("found", "needs", "needed", "remedy", "error", "reason"):
                assert cell in text, f"{column} {cell!r} is broken in two"
    # Nothing is cut off, and what is wrapped is not so narrow that nobody can read it.
    assert "…" not in text
    for word in " ".join(cell for row in rows for cell in row).split():
        assert word in text or len(word) > width - 10, f"{word} is broken in two"
    assert len(lines) <= 4 + 16 * len(rows), text


@pytest.mark.parametrize("width", WIDTHS)
def test_a_table_where_there_is_room(width: int, tmp_path: Path) -> None:
    given = {**TABLES["evidence"], "rows": EVIDENCE[:2]}
    lines = [CONTROL.sub("", line) for line in drawn(given, width, tmp_path)]
    assert any(line.split() == ["EVIDENCE", "RESULT", "FOUND", "NEEDED"] for line in lines) == (width > 60)
    assert any(line.split()[:2] == ["copy-finished", "ok"] for line in lines)


def test_colours_and_no_colours(tmp_path: Path) -> None:
    for width in WIDTHS:
        assert COLOUR.search("\n".join(drawn(TABLES["evidence"], width, tmp_path)))
        assert not COLOUR.search("\n".join(drawn(TABLES["evidence"], width, tmp_path, NO_COLOR="1")))


NAMES = (
    "save-pre-image", "arm-rescue", "close-gate", "stop-k3s", "seal-pre-image", "enable-etcd", "start-k3s", "prove",
    "hold-still", "commit", "disarm-rescue", "retire-sqlite", "open-gate", "first-snapshot", "drop-old-quarantine",
)  # fmt: skip


@pytest.mark.parametrize("width", [*WIDTHS, 48])
def test_the_live_picture_fits(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = [{"name": n, "status": "pending", "started_at": None, "finished_at": None, "progress": None} for n in NAMES]
    progress = {"done": 700, "total": 3041, "unit": "keys"}
    now = datetime.datetime.now(datetime.UTC)
    begun, deadline = ((now + datetime.timedelta(hours=h)).isoformat() for h in (-1, 1.5))
    steps[6].update(status="doing", started_at=begun, progress=progress)
    steps[0].update(status="undone")
    operation = {
        "id": "20261123t104226-migrate-319076", "kind": "migrate", "outcome": None, "finished_at": None,
        "created_at": begun, "deadline": deadline, "steps": steps,
    }  # fmt: skip
    monkeypatch.setenv("COLUMNS", str(width))
    view = LiveView(Output(as_json=False, no_color=True))
    with view._console.capture() as captured:
        view._console.print(view._picture(Update(operation)))
    lines = [line.rstrip() for line in captured.get().splitlines()]
    assert [line for line in lines if len(line) > width] == []
    text = "\n".join(lines)
    assert operation["id"] in text and re.search(r"deadline in 1h\d+m", text) and "…" not in text
    shown = [line.split()[1] for line in lines if line[:1] in "·▸✓↩"]
    assert shown == list(NAMES), "each step has one line, with its whole name"
    running = next(line for line in lines if line.startswith("▸"))
    assert running.endswith("700 of 3041 keys")
    assert ("━" in running) == (width >= 60)
