"""The live picture of a run on a terminal, and tables for people."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, TextIO

from k3s_ha_agent.durations import format_duration
from k3s_ha_agent.fleet.report import Report, Row, clean

if TYPE_CHECKING:
    from rich.console import Console, Group

REDRAW = 0.25
"""Seconds."""
BAR_WIDTH, SHORTEST_BAR = 30, 8
"""Columns."""
ENDED_SHOWN = 8
"""Clusters that ended and are still shown, the last first; all that failed are shown at the end."""
SENTENCES = ("why", "next")
TWO_SENTENCES = 100
"""Columns from which on there is room for two sentences side by side."""
COLOURS = {
    "done": "green",
    "nothing": "green",
    "rolled_back": "yellow",
    "rolled back": "yellow",
    "blocked": "yellow",
    "not_begun": "dim",
    "failed": "red",
    "broken": "red",
    "not proven": "red",
    "rollback_failed": "red",
    "unreachable": "red",
}


def console(out: TextIO, no_color: bool) -> Console:
    from rich.console import Console

    return Console(file=out, no_color=no_color, highlight=False, markup=False, emoji=False)


@contextlib.asynccontextmanager
async def live(report: Report, out: TextIO, no_color: bool) -> AsyncIterator[None]:
    """Draws the report again and again while the body runs."""
    from rich.live import Live

    screen = console(out, no_color)

    async def redraw(picture: Live) -> None:
        while True:
            picture.update(_picture(report, screen.width), refresh=True)
            await asyncio.sleep(REDRAW)

    with Live(console=screen, auto_refresh=False) as picture:
        task = asyncio.create_task(redraw(picture))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait({task})
            picture.update(_picture(report, screen.width), refresh=True)


def _picture(report: Report, width: int) -> Group:
    """Not wider than ``width`` columns: sentences are cut there, names are not."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    rows = list(report.rows.values())
    ended = [row for row in rows if row.ending is not None]
    done, counts = f"{len(ended)} of {len(rows)} clusters", _counts(ended)
    room = width - len(report.heading) - len(done) - 6
    head = Table.grid(padding=(0, 2, 0, 0))
    head.add_row(
        Text(report.heading, style="bold"),
        ProgressBar(total=max(1, len(rows)), completed=len(ended), width=max(SHORTEST_BAR, min(BAR_WIDTH, room))),
        Text(done),
    )
    last = sorted((row for row in ended if row.ended is not None), key=lambda row: row.ended or 0.0)[-ENDED_SHOWN:]
    shown = [*last, *(row for row in rows if row.began is not None and row.ending is None)]
    # cluster, servers that are ready, a word, how long; and what is being done or came of it
    facts = [(row.cluster, f"{row.ready}/{row.servers}", _words(row)[0], _took(row)) for row in shown]
    widths = [max(map(len, column)) for column in zip(*facts, strict=True)]
    table = Table.grid(padding=(0, 2, 0, 0))
    for each in (*widths, max(1, width - sum(widths) - 2 * (len(widths) + 1))):
        # Two blanks behind each, which rich counts for the last one too.
        table.add_column(no_wrap=True, width=each)
    for row, (cluster, ready, word, took) in zip(shown, facts, strict=True):
        detail = Text(clean(_words(row)[1]), style="" if row.away() is None else "yellow", overflow="ellipsis")
        table.add_row(Text(cluster), Text(ready), Text(word, style=COLOURS.get(word, "cyan")), Text(took), detail)
    return Group(head, *([Text(counts)] if counts else []), table)


def _words(row: Row) -> tuple[str, str]:
    if row.ending is not None:
        return row.ending.result.value, row.ending.why
    away = row.away()
    if away is not None:
        return "waiting", f"{row.server}: its agent has been away for {format_duration(round(away))}"
    return "running", f"{row.server} {row.doing}".strip()


def _took(row: Row) -> str:
    if row.began is None:
        return ""
    return format_duration(round((row.ended or time.monotonic()) - row.began))


def _counts(rows: Sequence[Row]) -> str:
    results = [row.ending.result.value for row in rows if row.ending is not None]
    return "  ".join(f"{results.count(result)} {result.replace('_', ' ')}" for result in dict.fromkeys(results))


def table(out: TextIO, columns: Sequence[str], rows: Sequence[Sequence[str]], *, no_color: bool) -> None:
    """Aligned columns in a pipe, one row a line; drawn on a terminal."""
    cleaned = [[clean(cell) for cell in row] for row in rows]
    if not out.isatty():
        everything = [[column.upper() for column in columns], *cleaned]
        widths = [max(len(row[n]) for row in everything) for n in range(len(columns))]
        for row in everything:
            print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip(), file=out)
        return
    from rich import box
    from rich.table import Table
    from rich.text import Text

    screen = console(out, no_color)
    if columns[-1] == "next" and screen.width < TWO_SENTENCES:
        columns = columns[:-1]
        cleaned = [[*rest, f"{why}\nnext: {step}" if step else why] for *rest, why, step in cleaned]
    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        # Names and words stay whole, sentences are wrapped.
        drawn.add_column(column.upper(), overflow="fold", no_wrap=column not in SENTENCES)
    for row in cleaned:
        drawn.add_row(*(Text(cell, style=COLOURS.get(cell, "")) for cell in row))
    screen.print(drawn)
