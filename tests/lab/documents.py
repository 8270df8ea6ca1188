"""The commands of the documentation, run in nodes as a reader types them: what is not written there is not done."""

from __future__ import annotations

import re
from pathlib import Path

from tests.lab.lab import CHECKOUT
from tests.lab.node import Node

README = CHECKOUT / "README.md"
REMOTE = CHECKOUT / "docs/remote-access.md"


def block(page: Path, containing: str) -> str:
    """The one fenced block of the page with that text in it."""
    found = [text for text in re.findall(r"^```\w+\n(.*?)^```", page.read_text(), re.M | re.S) if containing in text]
    assert len(found) == 1, f"{containing!r} is in {len(found)} blocks of {page}"
    return found[0]


def typed(page: Path, containing: str, prompt: str = "# ") -> list[str]:
    """The commands of a console block that are typed at that prompt."""
    return [line.removeprefix(prompt) for line in block(page, containing).splitlines() if line.startswith(prompt)]


def commands(page: Path, containing: str) -> list[str]:
    """The commands of a shell block, continued lines joined, comments left out."""
    lines = block(page, containing).replace("\\\n", "").splitlines()
    return [line for line in lines if line.strip() and not line.startswith("#")]


def shell(node: Node, command: str) -> str:
    """What a command printed that is typed in root's home; it has to work."""
    return node.exec(["bash", "-c", f"set -e; cd /root\n{command}"], timeout=300).stdout


def install(node: Node, package: Path) -> None:
    """With the README's command; what it needs of Debian is there, so nothing is fetched."""
    node.copy_in(package, f"/root/dist/{package.name}")
    (command,) = typed(README, "apt-get install")
    shell(node, command)
    node.wait_for_agent()
