"""Imports go one way (docs/design): each room may use the rooms below it, and no other."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = "k3s_ha_agent"
SOURCES = Path(__file__).resolve().parent.parent.parent / PACKAGE

GROUND = frozenset({"__init__", "errors", "model", "durable", "durations"})
MAY_IMPORT: dict[str, frozenset[str]] = {
    **dict.fromkeys(GROUND, GROUND),
    "settings": GROUND,
    "k3s": GROUND | {"k3s", "settings"},
    "host": GROUND | {"host", "settings"},
    "preflight": GROUND | {"preflight", "settings", "k3s", "host"},
    "operations": GROUND | {"operations", "settings", "k3s", "host", "preflight"},
    "api": GROUND | {"api", "settings", "k3s", "host", "preflight", "operations"},
    "__main__": GROUND | {"settings", "k3s", "host", "preflight", "operations", "api"},
    "ctl": (GROUND - {"durable"}) | {"ctl"},
    "client": (GROUND - {"durable"}) | {"client"},
    "fleet": (GROUND - {"durable"}) | {"fleet", "client"},
    "rescue": frozenset(),
}
"""For each room (a module or package below the top) what it may import of this package. ``k3s`` and ``host`` do not
know each other; ``rescue`` shares no code with what it rescues."""

OUTSIDE = {
    "aiohttp": {"k3s", "api", "client"},
    "cryptography": {"k3s"},
    "gi": {"host"},
    "psutil": {"host", "preflight"},
    "pydbus": {"host"},
    "rich": {"ctl", "fleet"},
    "structlog": {"host", "preflight", "operations", "api", "__main__"},
    "watchdog": {"host"},
    "yaml": {"settings", "k3s", "api", "fleet"},
}
"""Who may use which module that is not Python's own. What is not listed is no dependency of ours."""


def modules() -> list[Path]:
    return sorted(SOURCES.rglob("*.py"))


def room_of(path: Path) -> str:
    return path.relative_to(SOURCES).parts[0].removesuffix(".py")


def imports(source: str, package: str) -> Iterator[str]:
    """The full names of all modules and names a module of ``package`` imports, wherever in it that stands."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base]).rstrip(".")
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and _is_import_call(node):
            name = node.args[0]
            yield name.value if isinstance(name, ast.Constant) and isinstance(name.value, str) else "?"


def _is_import_call(node: ast.Call) -> bool:
    called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    return called in ("import_module", "__import__") and bool(node.args)


def complaints(path: Path, source: str) -> list[str]:
    """One sentence for each import that goes the wrong way."""
    room = room_of(path)
    if room not in MAY_IMPORT:
        return [f"{path} is in a room this test does not know: {room}"]
    package = ".".join([PACKAGE, *path.relative_to(SOURCES).parts[:-1]])
    found = []
    for name in imports(source, package):
        top, _, rest = name.partition(".")
        if top == PACKAGE:
            # `from k3s_ha_agent import __version__` names no room.
            used = rest.partition(".")[0] or "__init__"
            used = "__init__" if used.startswith("__") and used != "__main__" else used
            if used not in MAY_IMPORT[room]:
                found.append(f"{path}: {room} may not import {name}")
        elif top == "?":
            if room not in ("preflight",):
                found.append(f"{path}: imports a module whose name cannot be read here")
        elif top not in sys.stdlib_module_names and room not in OUTSIDE.get(top, set()):
            found.append(f"{path}: {room} may not import {name}")
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(SOURCES)))
def test_imports_go_one_way(path: Path) -> None:
    assert complaints(path, path.read_text()) == []


def test_every_room_is_there() -> None:
    rooms = {room_of(path) for path in modules()}
    assert rooms == MAY_IMPORT.keys(), "this test knows rooms that are not there, or the other way round"


@pytest.mark.parametrize(
    ("where", "source"),
    [
        ("k3s/x.py", "from k3s_ha_agent.host.units import Units"),
        ("host/x.py", "import k3s_ha_agent.k3s.layout"),
        ("k3s/x.py", "from ..host import units"),
        ("k3s/x.py", "from .. import host"),
        ("operations/steps/x.py", "def f():\n    from k3s_ha_agent.api import server"),
        ("ctl/x.py", "from k3s_ha_agent import settings"),
        ("ctl/x.py", "import importlib\nimportlib.import_module('k3s_ha_agent.k3s.kine')"),
        ("client/x.py", "from k3s_ha_agent import api"),
        ("client/x.py", "from k3s_ha_agent.durable import write"),
        ("client/x.py", "import yaml"),
        ("fleet/x.py", "from k3s_ha_agent.ctl.output import Output"),
        ("fleet/x.py", "import aiohttp"),
        ("rescue.py", "from k3s_ha_agent.model import FORMAT"),
        ("rescue.py", "import yaml"),
        ("errors.py", "import aiohttp"),
        ("model.py", "from k3s_ha_agent.settings import Settings"),
        ("k3s/x.py", "import requests"),
    ],
)
def test_a_wrong_import_is_found(where: str, source: str) -> None:
    assert len(complaints(SOURCES / where, source)) == 1


@pytest.mark.parametrize(
    ("where", "source"),
    [
        ("k3s/x.py", "from . import layout\nfrom .kine import digests\nimport json, aiohttp"),
        ("operations/steps/x.py", "from ..plan import Run\nfrom k3s_ha_agent import k3s, host"),
        ("api/x.py", "from k3s_ha_agent import __version__"),
        ("rescue.py", "import os, json"),
    ],
)
def test_a_right_import_is_not(where: str, source: str) -> None:
    assert complaints(SOURCES / where, source) == []
