"""Printing for people and for scripts.

On a terminal tables are drawn with ``rich``, imported only then; in a pipe they are aligned columns
without colours, one row a line, so that grep and awk can work with them.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console

COLOURS = {
    "ok": "green",
    "done": "green",
    "succeeded": "green",
    "yes": "green",
    "warned": "yellow",
    "undone": "yellow",
    "undoing": "yellow",
    "rolled_back": "yellow",
    "doing": "cyan",
    "refused": "red",
    "failed": "red",
    "undo_failed": "red",
    "rollback_failed": "red",
    "FALSE": "red",
}
"""Words of a status column and the colour they have on a terminal."""


class Output:
    """Where everything is printed."""

    def __init__(self, *, as_json: bool, no_color: bool) -> None:
        self.as_json = as_json
        self.no_color = no_color or bool(os.environ.get("NO_COLOR"))
        self.out: TextIO = sys.stdout
        self.err: TextIO = sys.stderr

    @property
    def live(self) -> bool:
        """True when somebody looks at a terminal that can be drawn on."""
        return not self.as_json and self.out.isatty() and os.environ.get("TERM", "dumb") != "dumb"

    def console(self) -> Console:
        from rich.console import Console

        return Console(file=self.out, no_color=self.no_color, highlight=False, markup=False, emoji=False)

    def line(self, text: str = "") -> None:
        print(clean(text), file=self.out, flush=True)

    def note(self, text: str) -> None:
        """For people, beside what a script reads."""
        print(clean(text), file=self.err, flush=True)

    def json(self, value: Any) -> None:
        print(json.dumps(value, indent=2), file=self.out, flush=True)

    def facts(self, facts: Iterable[tuple[str, str]]) -> None:
        """Names and values, one a line."""
        known = [(name, clean(value)) for name, value in facts]
        width = max((len(name) for name, _ in known), default=0)
        for name, value in known:
            self.line(f"{name.ljust(width)}  {value}".rstrip())

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        cleaned = [[clean(cell) for cell in row] for row in rows]
        if self.live:
            self._rich_table(columns, cleaned)
        else:
            for line in aligned([[c.upper() for c in columns], *cleaned]):
                self.line(line)

    def _rich_table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        from rich import box
        from rich.table import Table
        from rich.text import Text

        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for column in columns:
            table.add_column(column.upper(), overflow="fold")
        for row in rows:
            table.add_row(*(Text(cell, style=COLOURS.get(cell, "")) for cell in row))
        self.console().print(table)


def clean(text: str) -> str:
    """The text on one line and without control characters: what k3s or a file says draws nothing here."""
    return "".join(character if character.isprintable() else " " for character in text)


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as lines with columns below each other."""
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
