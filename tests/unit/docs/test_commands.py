"""Every command line in the pages, the catalog, the alerts and the agent's own advice is one that exists."""

from __future__ import annotations

import argparse
import re
import shlex
from pathlib import Path

import pytest

from k3s_ha_agent.ctl import arguments as ctl
from k3s_ha_agent.fleet import arguments as fleet
from tests.unit.docs.pages import ROOT, RUNBOOK, command_lines, pages

PARSERS = {ctl.PROGRAM: ctl.build_parser, fleet.PROGRAM: fleet.build_parser}
STRICT = ("runbook.md", "how-to", "tutorial")
"""Pages one types from. In others a sentence may name a command without its arguments."""
COMMANDS = {p: set(build()._subparsers._group_actions[0].choices) for p, build in PARSERS.items()}  # type: ignore[union-attr,arg-type]
NAMED_ONLY = {"join --dry-run"}.union(*COMMANDS.values())


def refusal(program: str, line: str) -> str | None:
    """What the parser says against a line; None when it takes it."""
    # In a shell function the command is what that is given.
    words = shlex.split(re.sub(r"[\[\]]|\.\.\.|…", " ", line.replace('"$@"', "status")))
    try:
        PARSERS[program]().parse_args(words)
    except SystemExit as ended:
        return None if ended.code == 0 else line
    except argparse.ArgumentError as error:
        return f"{line}: {error}"
    return None


def test_the_parser_refuses_what_it_does_not_know() -> None:
    assert refusal(ctl.PROGRAM, "rollback --wrong") and refusal(ctl.PROGRAM, "join") and refusal(ctl.PROGRAM, "mend")
    assert refusal(ctl.PROGRAM, "backups prune [ID ...]") is None


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_pages(page: Path) -> None:
    found = [(program, line) for program in PARSERS for line in command_lines(page.read_text(), program)]
    if not {page.name, page.parent.name} & set(STRICT):
        found = [(program, line) for program, line in found if line not in NAMED_ONLY]
    assert [line for program, line in found if refusal(program, line)] == []


def test_the_runbook_has_many() -> None:
    lines = command_lines(RUNBOOK.read_text(), ctl.PROGRAM)
    assert len(lines) > 30 and "operations ID" in lines


def test_units_that_are_named_exist() -> None:
    """Those of the package; the rescue's timer is made by the agent while an operation runs."""
    there = {path.name.removesuffix(".service") for path in (ROOT / "systemd").glob("*.service")}
    there |= {f"{name}.service" for name in there} | {"k3s-ha-agent-rescue.timer"}
    called = re.compile(r"(?:systemctl (?:[a-z-]+ )+|journalctl (?:-\w )*-u )(k3s-ha-agent[\w.-]*)")
    for page in pages():
        assert {name.rstrip(".") for name in called.findall(page.read_text())} <= there, page


@pytest.mark.parametrize("name", ["systemd/k3s-ha-agent.catalog", "packaging/alerts.yaml"])
def test_catalog_and_alerts(name: str) -> None:
    text = (ROOT / name).read_text().replace("@KSHA_KIND@", "join")
    lines = re.findall(rf'{ctl.PROGRAM} ([^;"\n]+)', text)
    assert lines
    assert [line for line in lines if refusal(ctl.PROGRAM, line)] == []


def test_advice_of_the_agent() -> None:
    """Sentences say k3s-ha-agentctl COMMAND; the rest of a line is put together when it is said."""
    for path in (ROOT / "k3s_ha_agent").rglob("*.py"):
        named = set(re.findall(rf"{ctl.PROGRAM} ([a-z][a-z-]+)", path.read_text()))
        assert named <= COMMANDS[ctl.PROGRAM], path
