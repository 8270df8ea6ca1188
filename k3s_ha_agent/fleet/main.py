"""The entry point of ``k3s-ha-fleet``: from the command line to an exit code."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fcntl
import io
import json
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from k3s_ha_agent.errors import AgentError, Conflict, NotFound
from k3s_ha_agent.fleet import picture, waves
from k3s_ha_agent.fleet.agents import endpoints, tokens
from k3s_ha_agent.fleet.arguments import PROGRAM, build_parser
from k3s_ha_agent.fleet.configuration import Cluster, Fleet, load
from k3s_ha_agent.fleet.drive import Driver
from k3s_ha_agent.fleet.outcome import EXIT_CODES, Ending, Result, exit_code
from k3s_ha_agent.fleet.report import EventLog, Lines, Report
from k3s_ha_agent.fleet.survey import Answer, Survey

INTERRUPTED = 130
"""128 + SIGINT, as shells count."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit codes are those of ``--help``."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A sign the terminal has not got must not end the run.
            stream.reconfigure(errors="replace")
    parsed = build_parser().parse_args(arguments)
    parsed.no_color = parsed.no_color or bool(os.environ.get("NO_COLOR"))
    # Asked to stop by systemd or a scheduler, it ends as with Ctrl-C.
    signal.signal(signal.SIGTERM, lambda number, frame: os.kill(os.getpid(), signal.SIGINT))
    try:
        return _run(parsed)
    except AgentError as error:
        if parsed.output == "json":
            print(json.dumps({"code": error.code, "detail": error.detail, "next_step": error.next_step}, indent=2))
        _note(f"error: {error.detail}")
        if error.next_step:
            _note(f"  next: {error.next_step}")
        return error.exit_code
    except KeyboardInterrupt:
        _note("Stopped watching; what was begun goes on, nothing else is begun.")
        _note(f"  Go on: {PROGRAM} {parsed.command} {parsed.fleet}")
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has left; Python would complain once more while it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _run(parsed: argparse.Namespace) -> int:
    fleet = load(parsed.fleet)
    clusters = _chosen(fleet, parsed.cluster)
    reach, secrets = endpoints(fleet, clusters), tokens(clusters)
    if parsed.command == "apply":
        with _only_one(fleet.path), contextlib.ExitStack() as stack:
            log = None if parsed.log is None else stack.enter_context(EventLog(parsed.log))
            if not _confirmed(parsed, clusters):
                _note("Nothing was done.")
                return 1
            return asyncio.run(_apply(parsed, fleet, clusters, reach, secrets, log))
    survey = Survey(fleet, reach, secrets, retry=getattr(parsed, "retry", False))
    ask = survey.plan if parsed.command == "plan" else survey.status
    return _tell(parsed, asyncio.run(ask(clusters)))


def _chosen(fleet: Fleet, names: Sequence[str]) -> list[Cluster]:
    unknown = sorted(set(names) - {cluster.name for cluster in fleet.clusters})
    if unknown:
        raise NotFound(f"There is no cluster {', '.join(unknown)} in {fleet.path}.")
    return [cluster for cluster in fleet.clusters if not names or cluster.name in names]


@contextlib.contextmanager
def _only_one(path: Path) -> Iterator[None]:
    """Conflict while another apply goes over the same file: two would be more at once than allowed."""
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Conflict(f"Another {PROGRAM} apply goes over {path}.", next_step="Wait for it to end.") from error
        yield


def _confirmed(parsed: argparse.Namespace, clusters: Sequence[Cluster]) -> bool:
    """Asked on a terminal only; a script has said what it wants by running the command."""
    if parsed.yes or not sys.stdin.isatty():
        return True
    print(f"Apply to {len(clusters)} clusters? Their k3s is stopped for a moment. [y/N] ", end="", file=sys.stderr)
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


async def _apply(
    parsed: argparse.Namespace,
    fleet: Fleet,
    clusters: Sequence[Cluster],
    reach: Mapping[tuple[str, str], Any],
    secrets: Mapping[str, str],
    log: EventLog | None,
) -> int:
    report = Report(fleet.name, log)

    async def drive(cluster: Cluster) -> Ending:
        token = secrets.get(cluster.name)
        return await Driver(fleet, cluster, reach, token, report, retry=parsed.retry).run()

    as_json = parsed.output == "json"
    drawn = not as_json and sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"
    report.event("run-began", f"{PROGRAM} apply {fleet.name}: {len(clusters)} clusters", retry=parsed.retry)
    async with contextlib.AsyncExitStack() as stack:
        if drawn:
            await stack.enter_async_context(picture.live(report, sys.stdout, parsed.no_color))
        elif not as_json:
            report.listener = Lines(sys.stdout)
        order = Survey(fleet, reach, secrets, retry=False).in_order
        endings = await waves.run(waves.split(clusters, fleet.waves), fleet.waves, order, drive, report)
    code = exit_code(endings)
    sentence = f"Ended: {waves.counts(endings)}."
    report.event("run-ended", sentence, exit_code=code, counts=_numbers(endings))
    if as_json:
        document = {"fleet": fleet.name, "exit_code": code, "counts": _numbers(endings)}
        print(json.dumps({**document, "clusters": [ending.as_json() for ending in endings]}, indent=2))
        return code
    rows = [(e.cluster, e.result.value, e.why, e.next_step) for e in endings if e.result is not Result.DONE]
    if rows:
        columns = ("cluster", "result", "why", "next")
        picture.table(sys.stdout, columns, rows, no_color=parsed.no_color)
    if drawn:
        print(sentence)
    return code


def _numbers(endings: Sequence[Ending]) -> dict[str, int]:
    return {result.value: sum(1 for e in endings if e.result is result) for result in Result}


def _tell(parsed: argparse.Namespace, answers: Sequence[Answer]) -> int:
    """Print what a survey found. The exit code is what apply's would be, as far as one can know."""
    found = {answer.result for answer in answers}
    code = next((code for result, code in EXIT_CODES if result in found), 0)
    if parsed.output == "json":
        print(json.dumps({"exit_code": code, "servers": [answer.as_json() for answer in answers]}, indent=2))
        return code
    rows = [(answer.cluster, answer.server, answer.what, answer.why) for answer in answers]
    picture.table(sys.stdout, ("cluster", "server", "what", "why"), rows, no_color=parsed.no_color)
    whats = [answer.what for answer in answers]
    print(", ".join(f"{whats.count(what)} {what}" for what in dict.fromkeys(whats)) + ".")
    return code


def _note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
