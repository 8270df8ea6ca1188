"""What the checkout says a package must hold; read from the files that say it."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

from tests.packaging.build import CHECKOUT
from tests.unit.docs.pages import links

PRIVATE = "usr/lib/k3s-ha-agent"
"""Where the rescue is, and the modules in an .rpm."""


def setup() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(CHECKOUT / "setup.cfg")
    return parser


def version() -> str:
    found = re.search(r'^__version__ = "(.+)"$', (CHECKOUT / "k3s_ha_agent/__init__.py").read_text(), re.MULTILINE)
    assert found
    return found[1]


def requirements() -> dict[str, str]:
    """The lowest version of each module the agent needs, by its name on PyPI in lower case."""
    lines = setup()["options"]["install_requires"].split("\n")
    split = (line.split(">=") for line in lines if line.strip())
    return {name.strip().lower(): lowest.strip() for name, lowest in split}


def programs() -> dict[str, str]:
    """``module:function`` of each program: the daemon, and what setup.cfg names."""
    lines = setup()["options.entry_points"]["console_scripts"].strip().splitlines()
    named = (line.partition("=") for line in lines)
    return {"k3s-ha-agent": "k3s_ha_agent.__main__:main", **{name.strip(): where.strip() for name, _, where in named}}


def modules(checkout: Path = CHECKOUT) -> list[Path]:
    """Every file of the Python package."""
    return sorted(p for p in (checkout / "k3s_ha_agent").rglob("*") if p.is_file() and "__pycache__" not in p.parts)


def differences(checkout: Path, tree: Path, module_directory: str, unit_directory: str) -> list[str]:
    """How an unpacked package differs from the checkout, in what both packages have in common."""
    expected: dict[str, bytes] = {
        "etc/k3s-ha-agent/config.yaml": (checkout / "packaging/config.yaml").read_bytes(),
        f"{PRIVATE}/rescue": b"#!/usr/bin/python3 -IS\n" + (checkout / "k3s_ha_agent/rescue.py").read_bytes(),
        f"{PRIVATE}/unfinished": (checkout / "packaging/lib/unfinished").read_bytes(),
        "usr/lib/sysusers.d/k3s-ha-agent.conf": (checkout / "systemd/k3s-ha-agent.sysusers.conf").read_bytes(),
        "usr/lib/tmpfiles.d/k3s-ha-agent.conf": (checkout / "systemd/k3s-ha-agent.tmpfiles.conf").read_bytes(),
    }
    for name in ("alerts.yaml", "grafana-dashboard.json"):
        expected[f"usr/share/k3s-ha-agent/{name}"] = (checkout / "packaging" / name).read_bytes()
    for unit in checkout.glob("systemd/*.service"):
        expected[f"{unit_directory}/{unit.name}"] = unit.read_bytes()
    for catalog in checkout.glob("systemd/*.catalog"):
        expected[f"usr/lib/systemd/catalog/{catalog.name}"] = catalog.read_bytes()
    for program in programs():
        expected[f"usr/bin/{program}"] = (checkout / "packaging/bin" / program).read_bytes()
    for module in modules(checkout):
        expected[f"{module_directory}/{module.relative_to(checkout)}"] = module.read_bytes()
    found = []
    for path, content in expected.items():
        file = tree / path
        if not file.is_file():
            found.append(f"{path} is missing")
        elif file.read_bytes() != content:
            found.append(f"{path} is another file")
    return found


def wrong_modes(tree: Path) -> list[str]:
    """Files that are not as everything in a package is: owned by root, nothing writable by others, nothing odd."""
    found = []
    for path in sorted(tree.rglob("*")):
        status = path.lstat()
        executable = path.is_dir() or path.parent.name == "bin" or path.name in ("rescue", "unfinished")
        wanted = 0o755 if executable else 0o644
        if path.is_symlink() or (status.st_uid, status.st_gid, status.st_mode & 0o7777) != (0, 0, wanted):
            found.append(f"{path.relative_to(tree)} {status.st_uid}:{status.st_gid} {status.st_mode & 0o7777:o}")
    return found


def pages(tree: Path) -> set[str]:
    """The pages of a package, as they are named in the checkout."""
    directory = tree / "usr/share/doc/k3s-ha-agent"
    return {str(path.relative_to(directory)) for path in directory.rglob("*.md")} - {"CHANGELOG.md"}


def pages_of(checkout: Path) -> set[str]:
    return {"README.md"} | {str(path.relative_to(checkout)) for path in (checkout / "docs").rglob("*.md")}


def broken_links(tree: Path) -> list[tuple[str, str]]:
    """Page and target of every link that leads nowhere in a package."""
    directory = tree / "usr/share/doc/k3s-ha-agent"
    return [
        (name, target)
        for name in sorted(pages(tree))
        for target in links((directory / name).read_text())
        if "://" not in target and not ((directory / name).parent / target.partition("#")[0]).exists()
    ]
