"""Printing for people and for scripts.

On a terminal tables are drawn with ``rich``, imported only then, and fit its width; in a pipe they are aligned
columns without colours, one row a line, so that grep and awk can work with them.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import textwrap
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

TEXT = frozenset({"found", "needs", "needed", "remedy", "error", "reason", "problem"})
"""Columns that hold sentences: they may be wrapped. The others are names and words, and stay whole."""
READABLE = 20
"""A column of sentences narrower than this is no table any more."""
GAP = 3
"""Blanks rich draws between two columns."""


class NotWritten(Exception):
    """What was asked for cannot be printed: the disk is full, the terminal is gone."""


def silence(stream: TextIO) -> None:
    """Drop what could not be written; Python would try once more while it exits, and complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


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
        self._print(clean(text))

    def note(self, text: str) -> None:
        """For people, beside what a script reads; where nobody can read it, the exit code still says it."""
        try:
            print(clean(text), file=self.err, flush=True)
        except OSError:
            silence(self.err)

    def json(self, value: Any) -> None:
        self._print(json.dumps(value, indent=2))

    def _print(self, text: str) -> None:
        try:
            print(text, file=self.out, flush=True)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise NotWritten(f"The output cannot be written: {error.strerror}.") from error

    def facts(self, facts: Iterable[tuple[str, str]]) -> None:
        """Names and values, one a line."""
        known = [(name, clean(value)) for name, value in facts]
        width = max((len(name) for name, _ in known), default=0)
        for name, value in known:
            line = f"{name.ljust(width)}  {value}".rstrip()
            if self.live:
                room = max(shutil.get_terminal_size().columns, width + READABLE)
                # What is pasted must not have got a break: paths and commands are left whole.
                line = textwrap.fill(
                    line, room, subsequent_indent=" " * (width + 2), break_long_words=False, break_on_hyphens=False
                )
            for each in line.splitlines():
                self.line(each)

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

        console = self.console()
        texts = [n for n, column in enumerate(columns) if column in TEXT]
        widths = fitting(columns, rows, texts, console.width - GAP * len(columns))
        if widths is None:
            self._stacked(console, columns, rows, texts)
            return
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for column, width in zip(columns, widths, strict=True):
            table.add_column(column.upper(), overflow="fold", width=width)
        for row in rows:
            table.add_row(*(Text(cell, style=COLOURS.get(cell, "")) for cell in row))
        console.print(table)

    def _stacked(
        self, console: Console, columns: Sequence[str], rows: Sequence[Sequence[str]], texts: Sequence[int]
    ) -> None:
        """Each row as a heading of its names and words, and what does not fit there below it, with its name."""
        from rich.padding import Padding
        from rich.table import Table
        from rich.text import Text

        for row in rows:
            heading, below = Text(), []
            for n, cell in enumerate(row):
                if not cell:
                    continue
                if n in texts or (heading and heading.cell_len + 2 + len(cell) > console.width):
                    below.append(n)
                    continue
                heading.append("  " if heading else "").append(cell, style=COLOURS.get(cell, "bold"))
            grid = Table.grid(padding=(0, 2, 0, 0))
            grid.add_column(no_wrap=True, style="dim")
            grid.add_column(overflow="fold")
            for n in below:
                grid.add_row(columns[n], Text(row[n]))
            console.print(heading)
            if below:
                console.print(Padding(grid, (0, 0, 0, 2)))


def clean(text: str) -> str:
    """The text on one line and without control characters: what k3s or a file says draws nothing here."""
    return "".join(character if character.isprintable() else " " for character in text)


def fitting(columns: Sequence[str], rows: Sequence[Sequence[str]], texts: Sequence[int], room: int) -> list[int] | None:
    """How wide the columns may be in ``room``; None when names, paths or commands would be broken in two.

    ``texts``: the columns that hold sentences.
    """
    full = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
    widths = list(full)
    for n in texts:
        longest = max((len(word) for row in rows for word in row[n].split()), default=0)
        widths[n] = min(full[n], max(READABLE, longest))
    if sum(widths) > room:
        return None
    for _ in range(min(room, sum(full)) - sum(widths)):
        # A column each, to the one that lacks most.
        poorest = max(texts, key=lambda n: full[n] - widths[n])
        widths[poorest] += 1
    return widths


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as lines with columns below each other."""
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
