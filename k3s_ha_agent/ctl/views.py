"""Two ways to look at an operation while it runs: a live picture, or plain lines."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

from k3s_ha_agent.ctl import words
from k3s_ha_agent.ctl.follow import Update
from k3s_ha_agent.ctl.output import COLOURS, Output, clean
from k3s_ha_agent.durations import format_duration

if TYPE_CHECKING:
    from rich.console import Group, RenderableType
    from rich.table import Table

BAR_WIDTH = 30
SHORTEST_BAR = 8
"""Columns; where there is no room for that many the numbers have to do."""
MARKS = {
    "pending": "·",
    "doing": "▸",
    "done": "✓",
    "failed": "✗",
    "undoing": "◂",
    "undone": "↩",
    "undo_failed": "✗",
}
RUNNING = {"doing", "undoing"}


class View(Protocol):
    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def show(self, update: Update) -> None: ...


class Silent:
    """For ``-o json``: only the end is printed, by somebody else."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def show(self, update: Update) -> None:
        return None


class PlainView(Silent):
    """One line for each thing that happened."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._began: dict[str, str] = {}
        self._tenths: dict[str, int] = {}
        self._away = False

    def show(self, update: Update) -> None:
        if (update.away is not None) != self._away:
            self._away = not self._away
            self._output.line("the agent is away; waiting for it" if self._away else "the agent is back")
        for event in update.events:
            data = event.data.get("data", {})
            if event.type == "decision":
                self._output.line(data["sentence"])
            elif event.type == "step":
                self._show_transition(data["step"], data["status"], data.get("error"), event.data["time"])
        for step in update.operation["steps"]:
            self._show_progress(step)

    def _show_transition(self, name: str, status: str, error: str | None, time: str) -> None:
        line = f"{name} {status}"
        if status in RUNNING:
            self._began[name] = time
        elif name in self._began:
            line += f" in {format_duration(max(0.0, words.seconds_between(self._began[name], time)))}"
        self._output.line(f"{line}: {error}" if error else line)

    def _show_progress(self, step: Mapping[str, Any]) -> None:
        if step["status"] in RUNNING and step.get("progress") and step["progress"]["total"]:
            # Ten lines are enough for a step that counts a million keys.
            tenth = step["progress"]["done"] * 10 // step["progress"]["total"]
            if tenth != self._tenths.get(step["name"]):
                self._tenths[step["name"]] = tenth
                self._output.line(f"{step['name']} {words.progress(step)}")


class LiveView:
    """The steps as a list that is drawn anew, with a bar where something is counted."""

    def __init__(self, output: Output) -> None:
        from rich.live import Live

        self._decision = ""
        self._console = output.console()
        self._live = Live(console=self._console, auto_refresh=False)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def show(self, update: Update) -> None:
        for event in update.events:
            if event.type == "decision":
                self._decision = event.data["data"]["sentence"]
        self._live.update(self._picture(update), refresh=True)

    def _picture(self, update: Update) -> Group:
        from rich.console import Group
        from rich.text import Text

        operation = update.operation
        head = f"{operation['kind']} {operation['id']}"
        time = format_duration(round(words.elapsed(operation)))
        if not words.finished(operation):
            time += f"   {words.left(operation)}"
        between = "   " if len(head) + 3 + len(time) <= self._console.width else "\n"
        head += between + time
        parts: list[RenderableType] = [Text(head, style="bold"), self._steps(operation)]
        if update.away is not None:
            away = format_duration(round(update.away))
            parts.append(Text(f"The agent has been away for {away}; waiting for it.", style="yellow"))
        elif self._decision:
            parts.append(Text(clean(self._decision), style="dim"))
        return Group(*parts)

    def _steps(self, operation: Mapping[str, Any]) -> Table:
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        steps = operation["steps"]
        details = [words.progress(step) if step["status"] in RUNNING else words.took(step) for step in steps]
        names, numbers = (max(map(len, texts), default=0) for texts in ([step["name"] for step in steps], details))
        room = self._console.width - (len("▸  ") + names + 2 + 2 + numbers)
        table = Table.grid(padding=(0, 2, 0, 0), pad_edge=False)
        for _ in range(4):
            table.add_column(no_wrap=True)
        for step, detail in zip(steps, details, strict=True):
            status = step["status"]
            style = COLOURS.get(status, "dim")
            middle: RenderableType = Text("" if status in ("pending", "done") else status, style=style)
            if status in RUNNING and step.get("progress") and step["progress"]["total"]:
                done, total = step["progress"]["done"], step["progress"]["total"]
                if room >= SHORTEST_BAR:
                    middle = ProgressBar(total=total, completed=done, width=min(BAR_WIDTH, room))
            table.add_row(Text(MARKS.get(status, "?"), style=style), Text(step["name"]), middle, Text(detail))
        return table


def view_for(output: Output) -> View:
    if output.as_json:
        return Silent()
    return LiveView(output) if output.live else PlainView(output)
