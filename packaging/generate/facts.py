"""Settings and metrics as data, out of the sources."""

from __future__ import annotations

import ast
import dataclasses
import email.utils
import inspect
import itertools
import json
import re
from pathlib import Path

from k3s_ha_agent import errors, settings
from k3s_ha_agent.api import contract, metrics
from k3s_ha_agent.ctl.client import exit_codes

FOR_TESTS = ("root",)
EXIT_CODES = {
    0: "Done.",
    1: "Failed.",
    2: "Usage, or settings that are not valid.",
    3: "The operation was rolled back.",
    4: "The rollback failed; the server needs a person.",
    5: "Refused by preflight; nothing was changed.",
    6: "Conflict: something else runs, or the state of the server forbids it.",
    7: "The agent does not answer.",
    130: "Stopped watching (Ctrl-C); the operation goes on.",
}


@dataclasses.dataclass(frozen=True)
class Setting:
    name: str
    default: str
    text: str


def documented_settings() -> list[Setting]:
    """Every setting with its default as it is written in YAML, and the text that stands below its field."""
    tree = ast.parse(inspect.getsource(settings.Settings))
    body = tree.body[0].body  # type: ignore[attr-defined]
    texts = {
        field.target.id: re.sub(r"\s+", " ", after.value.value)
        for field, after in itertools.pairwise(body)
        if isinstance(field, ast.AnnAssign) and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
    }
    return [
        Setting(name, value if isinstance(value, str) else json.dumps(value), texts[name])
        for name, value in settings.shown(settings.Settings()).items()
        if name not in FOR_TESTS
    ]


def families() -> list[tuple[str, str, str]]:
    """Name, type and help of each metric, in the order they are given."""
    source = Path(inspect.getsourcefile(metrics) or "").read_text()
    calls = [
        [argument.value for argument in node.args]
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "text.family"
    ]
    return [(metrics.PREFIX + name, kind, text) for name, kind, text in sorted(calls)]


def labels() -> dict[str, list[str]]:
    """The labels of each metric."""
    source = Path(inspect.getsourcefile(metrics) or "").read_text()
    found: dict[str, list[str]] = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "text.sample":
            name = metrics.PREFIX + re.sub(r"_(bucket|sum|count)$", "", node.args[0].value)
            known = found.setdefault(name, [])
            known += [k.arg for k in node.keywords if k.arg and k.arg not in (*known, "le")]
    return found


def released() -> str:
    """The day of the newest entry of the package's changelog, as the packages are dated, too."""
    changelog = (Path(__file__).parents[1] / "debian/changelog").read_text()
    date = re.search(r"^ -- .*>  (.+)$", changelog, re.MULTILINE)
    assert date
    return email.utils.parsedate_to_datetime(date[1]).date().isoformat()


def document() -> dict:
    return contract.parse(contract.PATH.read_bytes())


def error_classes() -> dict[str, type[errors.AgentError]]:
    found: dict[str, type[errors.AgentError]] = {}
    waiting = [errors.AgentError]
    while waiting:
        known = waiting.pop()
        found[known.code] = known
        waiting += known.__subclasses__()
    assert found.keys() == exit_codes().keys()
    return found


def plain(text: str) -> str:
    """A docstring's markup as plain words."""
    return text.replace("``", "").replace("`", "")


def markdown(text: str) -> str:
    return text.replace("``", "`")
