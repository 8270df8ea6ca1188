"""Every relative link of every page leads to a file that is there, and to a heading in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.docs.pages import ROOT, anchors, links, pages


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_links(page: Path) -> None:
    for target in links(page.read_text()):
        if "://" in target or target.startswith("mailto:"):
            continue
        file, _, anchor = target.partition("#")
        there = (page.parent / file) if file else page
        assert there.resolve().is_relative_to(ROOT) and there.exists(), target
        if anchor:
            assert anchor in anchors(there.read_text()), target


def test_the_index_names_every_page() -> None:
    index = ROOT / "docs/README.md"
    named = {(index.parent / target.partition("#")[0]).resolve() for target in links(index.read_text())}
    assert [page for page in (ROOT / "docs").rglob("*.md") if page != index and page.resolve() not in named] == []


def test_the_readme_leads_to_the_index() -> None:
    assert "docs/README.md" in links((ROOT / "README.md").read_text())
