"""``backups list``, ``verify`` and ``prune``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote

from k3s_ha_agent.ctl.client import CHECKS_TIMEOUT, Client, Problem
from k3s_ha_agent.ctl.output import Output

COLUMNS = ("operation", "began", "outcome", "k3s", "size", "needed")


def size(count: int) -> str:
    """Bytes for people."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            break
        value /= 1024
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"


def counted(number: int) -> str:
    return f"{number} pre-image{'' if number == 1 else 's'}"


def rows(backups: list[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    return [
        (
            b["operation"],
            b["created_at"] or "unknown",
            b["outcome"] or "unknown",
            b["k3s_version"] or "unknown",
            size(b["bytes"]),
            "yes" if b["needed"] else "no",
        )
        for b in backups
    ]


def _target(operation_id: str) -> str:
    return f"/v1/backups/{quote(os.fsencode(operation_id), safe='')}"


def listed(arguments: argparse.Namespace, client: Client, output: Output) -> int:
    answer = client.get("/v1/backups")
    if output.as_json:
        output.json(answer)
    else:
        output.table(COLUMNS, rows(answer["backups"]))
    return 0


def verify(arguments: argparse.Namespace, client: Client, output: Output) -> int:
    """1 when one of them is damaged."""
    wanted = arguments.id or [b["operation"] for b in client.get("/v1/backups")["backups"]]
    found = [
        client.get(f"/v1/backups/{quote(os.fsencode(each), safe='')}?verify=true", timeout=CHECKS_TIMEOUT)
        for each in wanted
    ]
    if output.as_json:
        output.json({"backups": found})
    else:
        table = [
            (b["operation"], "ok" if b["verified"] else "failed", size(b["bytes"]), b["problem"] or "") for b in found
        ]
        output.table(("operation", "result", "size", "problem"), table)
    return 0 if all(b["verified"] for b in found) else 1


def prune(arguments: argparse.Namespace, client: Client, output: Output) -> int:
    """Those named, or all that are not needed. The agent has the last word on what is."""
    there = client.get("/v1/backups")["backups"]
    free = [b for b in there if not b["needed"]]
    doomed = free[arguments.keep or 0 :]
    if arguments.id:
        # What is needed or not there is refused by the agent, in its own words.
        doomed = [b for b in there if b["operation"] in arguments.id]
        names = {b["operation"] for b in doomed}
        for missing in [name for name in arguments.id if name not in names]:
            client.get(_target(missing))
    if not output.as_json:
        if not doomed:
            why = "every pre-image is needed" if len(free) < len(there) else "there is no pre-image"
            output.line(f"Nothing to remove: {'--keep keeps what is left' if free else why}.")
            return 0
        output.table(COLUMNS, rows(doomed))
    if arguments.dry_run or not doomed:
        return _end(doomed if arguments.dry_run else [], output, dry_run=arguments.dry_run)
    if not arguments.yes and sys.stdin.isatty():
        print(f"Remove {counted(len(doomed))} for ever? [y/N] ", end="", file=output.err, flush=True)
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            output.note("Nothing was done.")
            return 1
    removed: list[Mapping[str, Any]] = []
    try:
        for backup in doomed:
            removed.append(client.delete(_target(backup["operation"])))  # noqa: PERF401
    except Problem:
        output.note(f"{len(removed)} of {len(doomed)} were removed.")
        raise
    return _end(removed, output, dry_run=False)


def _end(backups: list[Mapping[str, Any]], output: Output, *, dry_run: bool) -> int:
    freed = sum(b["bytes"] for b in backups)
    if output.as_json:
        output.json({"removed" if not dry_run else "would_be_removed": backups, "bytes": freed})
    elif dry_run:
        output.line(f"This was a dry run: {counted(len(backups))}, {size(freed)}, would be removed.")
    else:
        output.line(f"{counted(len(backups))} {'was' if len(backups) == 1 else 'were'} removed, {size(freed)} freed.")
    return 0


BACKUPS: Mapping[str, Callable[[argparse.Namespace, Client, Output], int]] = {
    "list": listed,
    "verify": verify,
    "prune": prune,
}
