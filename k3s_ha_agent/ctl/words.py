"""What an operation's record means, in sentences, and the exit code it stands for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from k3s_ha_agent.durations import format_duration

Json = Mapping[str, Any]

EXIT_CODES = {"succeeded": 0, "rolled_back": 3, "rollback_failed": 4, "refused": 5}


def finished(operation: Json) -> bool:
    return operation.get("outcome") is not None


def exit_code(operation: Json) -> int:
    return EXIT_CODES.get(str(operation.get("outcome")), 1)


def sentence(operation: Json) -> str:
    """How it ended, in one sentence."""
    kind, outcome = operation["kind"], operation.get("outcome")
    proven = sum(1 for item in operation.get("evidence", ()) if item["ok"])
    took = format_duration(elapsed(operation))
    reason = operation.get("reason") or "no reason was recorded"
    if outcome == "succeeded":
        result = {
            "migrate": "this server runs on embedded etcd",
            "rollback": "this server is back on SQLite",
            "join": "this server is a member of the cluster",
        }.get(kind, f"the {kind} is done")
        remark = f" Note: {operation['reason']}" if operation.get("reason") else ""
        facts = "one fact" if proven == 1 else f"{proven} facts"
        return f"Done in {took}: {result}, with {facts} proven.{remark}"
    if outcome == "rolled_back":
        return f"Rolled back after {took}: the {kind} was undone and this server is as before. Reason: {reason}"
    if outcome == "rollback_failed":
        return (
            f"ROLLBACK FAILED after {took}: the {kind} could not be undone and this server needs you. Reason: {reason}"
        )
    return f"The {kind} ended as {outcome} after {took}. Reason: {reason}"


def next_command(operation: Json, show: str) -> str | None:
    """What to do after an operation that did not succeed. ``show`` is the command that shows it."""
    outcome = operation.get("outcome")
    if outcome == "rolled_back":
        return f"Look at what failed: {show}"
    if outcome == "rollback_failed":
        return f"Try the way back again: systemctl start k3s-ha-agent-rescue.service; see also: {show}"
    return None if outcome == "succeeded" else f"See: {show}"


def evidence_rows(operation: Json) -> list[Sequence[str]]:
    return [
        (item["name"], "ok" if item["ok"] else "FALSE", item["value"], item["needed"])
        for item in operation.get("evidence", ())
    ]


def check_rows(checks: Sequence[Json]) -> list[Sequence[str]]:
    return [(c["name"], c["status"], c["found"], c.get("needs", ""), c.get("remedy", "")) for c in checks]


def member_rows(members: Sequence[Json]) -> list[Sequence[str]]:
    """Of ``/v1/members``: name, Node, address, what it is, and whether it answers and is healthy."""
    return [
        (
            member["name"] or member["id"],
            member["node"],
            member["address"],
            "learner" if member["learner"] else "leader" if member["leader"] else "voter",
            "yes" if member["answers"] else "NO",
            {True: "yes", False: "NO", None: "unknown"}[member["healthy"]],
        )
        for member in members
    ]


def step_rows(operation: Json) -> list[Sequence[str]]:
    return [
        (step["name"], step["status"], took(step), progress(step), step.get("error") or "")
        for step in operation["steps"]
    ]


def took(step: Json) -> str:
    if step.get("started_at") is None or step.get("finished_at") is None:
        return ""
    return format_duration(max(0.0, seconds_between(step["started_at"], step["finished_at"])))


def progress(step: Json) -> str:
    """How far a step is, in words; empty when it does not say."""
    if step.get("progress") is None:
        return ""
    done, total, unit = (step["progress"][name] for name in ("done", "total", "unit"))
    if unit == "bytes":
        return f"{in_bytes(done)} of {in_bytes(total)}"
    if unit == "seconds":
        return f"{format_duration(done)} of {format_duration(total)}"
    return f"{done} of {total} {unit}"


def named(name: str, value: Any) -> tuple[str, str]:
    """A name and a value as the API gives them, for people."""
    words = name.removesuffix("_seconds").removesuffix("_bytes").replace("_", " ")
    if value is None:
        return words, "unknown"
    if name.endswith("_seconds"):
        return words, format_duration(value)
    if name.endswith("_bytes"):
        return name.replace("_", " "), in_bytes(value)
    return words, str(value)


def in_bytes(count: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def elapsed(operation: Json) -> float:
    """Seconds since it began, until its end when it has ended."""
    until = operation.get("finished_at") or datetime.now(UTC).isoformat()
    return max(0.0, seconds_between(operation["created_at"], until))


def left(operation: Json) -> str:
    """How long until the deadline, in words."""
    if operation.get("deadline") is None:
        return "no deadline yet"
    seconds = seconds_between(datetime.now(UTC).isoformat(), operation["deadline"])
    return f"deadline in {format_duration(round(seconds))}" if seconds >= 1 else "deadline passed"


def seconds_between(start: str, end: str) -> float:
    return (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds()
