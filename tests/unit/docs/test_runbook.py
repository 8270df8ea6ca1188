"""The runbook has an entry for every problem a caller, the log or an alert can name, and no other."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest
import yaml

from k3s_ha_agent import errors
from k3s_ha_agent.api import contract, problems
from k3s_ha_agent.client.problems import classes
from k3s_ha_agent.model import Outcome
from tests.unit.docs.pages import ROOT, RUNBOOK, anchors

PARTS = ("Means", "Left as it was", "Next")
TEXT = RUNBOOK.read_text()


def entries(section: str) -> dict[str, str]:
    """The entries of a section, by their headings."""
    found = re.split(r"^## (.+)$", TEXT, flags=re.MULTILINE)
    body = dict(zip(found[1::2], found[2::2], strict=True))[section]
    parts = re.split(r"^### (.+)$", body, flags=re.MULTILINE)[1:]
    assert len(set(parts[::2])) == len(parts[::2]), "an entry stands there twice"
    return dict(zip(parts[::2], parts[1::2], strict=True))


def test_every_code_has_its_entry_and_every_entry_its_code() -> None:
    assert list(entries("Problem codes")) == sorted(classes())


def test_no_problem_is_made_outside_of_errors() -> None:
    """A code written anywhere else would be in no list: neither here nor in the contract."""
    for path in sorted((ROOT / "k3s_ha_agent").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                names = {t.id for s in node.body if isinstance(s, ast.Assign | ast.AnnAssign) for t in _targets(s)}
                named = path.name == "errors.py" or not {"code", "title"} <= names
                assert named, f"{path}: {node.name}"
    document = contract.parse(contract.PATH.read_bytes())
    by_clients = {errors.UnknownProblem.code, errors.AgentUnreachable.code}
    assert {*document["x-problem-codes"]} | by_clients == set(classes())


def _targets(statement: ast.Assign | ast.AnnAssign) -> Iterator[ast.Name]:
    targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
    for target in targets:
        for name in ast.walk(target):
            if isinstance(name, ast.Name):
                yield name


@pytest.mark.parametrize("code", sorted(classes()))
def test_an_entry_says_the_status_and_the_exit_code(code: str) -> None:
    known = classes()[code]
    assert entries("Problem codes")[code].lstrip().startswith(f"({known.status}, exit {known.exit_code})\n")


@pytest.mark.parametrize("section", ["Ends of operations", "States of a server", "Problem codes", "Alerts"])
def test_an_entry_says_what_it_means_what_was_left_and_what_to_do(section: str) -> None:
    for name, body in entries(section).items():
        said = re.findall(r"^- \*\*([^*]+):\*\* *(.*)$", body, re.MULTILINE)
        assert tuple(part for part, _ in said) == PARTS, name
        assert all(sentence or part == "Next" for part, sentence in said), name
        assert body.partition("**Next:**")[2].strip(), name


def test_the_type_of_an_answer_ends_with_the_name_of_its_entry() -> None:
    for known in classes().values():
        document = problems.document(known("What.", next_step="Then."), "/v1/status")
        assert document["type"].rpartition(":")[2] in entries("Problem codes")


def test_every_end_but_success_and_refusal_has_its_entry() -> None:
    ends = {outcome.replace("_", "-") for outcome in Outcome} - {"succeeded", "refused"}
    assert ends < set(entries("Ends of operations"))


def test_what_points_into_the_runbook_hits_an_entry() -> None:
    """Sentences of the agent, the catalog of journald, the settings, units and packages."""
    there = anchors(TEXT)
    sources = [p for d in ("k3s_ha_agent", "packaging", "systemd") for p in (ROOT / d).rglob("*") if p.is_file()]
    found = [
        (path.name, anchor)
        for path in sources
        if path.suffix in {".py", ".yaml", ".json", ".catalog", ".service", ".Debian", ".rpm", ""}
        for anchor in re.findall(r"runbook\.md#([\w-]+)", path.read_text())
    ]
    assert {"unknown-etcd", "two-etcd-directories", "record-unreadable"} <= {anchor for _, anchor in found}
    assert [each for each in found if each[1] not in there] == []


def test_every_alert_names_its_entry() -> None:
    rules = yaml.safe_load((ROOT / "packaging/alerts.yaml").read_text())["groups"][0]["rules"]
    entry = {rule["alert"]: rule["annotations"]["runbook"].partition("#") for rule in rules}
    assert len(rules) > 5
    assert [name for name, (page, _, _) in entry.items() if page != RUNBOOK.name] == []
    assert {anchor for _, _, anchor in entry.values()} <= anchors(TEXT)
    assert set(entries("Alerts")) <= {anchor for _, _, anchor in entry.values()}
