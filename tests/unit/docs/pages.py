"""The pages of the project as data: their anchors, links, and the command lines in them."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
RUNBOOK = ROOT / "docs/runbook.md"
_FENCED = re.compile(r"^ *```[^\n]*\n(.*?)^ *```", re.MULTILINE | re.DOTALL)


def pages() -> list[Path]:
    """Every page that people read; recordings are what k3s and systemd said, and no pages."""
    found = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "tests").rglob("*.md")]
    return sorted(path for path in found if "recordings" not in path.parts)


def anchors(text: str) -> set[str]:
    """The anchors of the headings, as they are made for Markdown on the web: lower case, without punctuation."""
    found: set[str] = set()
    for heading in re.findall(r"^#{1,6} +(.+?) *$", _FENCED.sub("", text), re.MULTILINE):
        base = re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower()).replace(" ", "-")
        name, number = base, 0
        while name in found:
            number += 1
            name = f"{base}-{number}"
        found.add(name)
    return found


def links(text: str) -> list[str]:
    """The targets of the links, those in code left out."""
    prose = re.sub(r"`[^`\n]*`", "", _FENCED.sub("", text))
    return re.findall(r"\]\(([^)\s]+)\)", prose)


def command_lines(text: str, program: str) -> list[str]:
    """What follows the program's name wherever it is called: in code blocks, and in code within a sentence."""
    blocks = _FENCED.findall(text)
    code = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    code += re.findall(r"`([^`]+)`", _FENCED.sub("", text))
    found = []
    for line in code:
        for call in re.finditer(rf"(?:^|[\s(;|&]){program}(?=\s)([^`|;&<>#()]*)", line):
            if call[1].strip():
                found.append(" ".join(call[1].split()))
    return found
