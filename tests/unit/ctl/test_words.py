"""The pure parts: event streams, columns, sentences, exit codes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from k3s_ha_agent.ctl import words
from k3s_ha_agent.ctl.arguments import build_parser
from k3s_ha_agent.ctl.client import Problem, ServerEvent, curl, exit_codes, parse_events
from k3s_ha_agent.ctl.endpoint import UnixSocket
from k3s_ha_agent.ctl.output import aligned, clean


def test_events_out_of_lines() -> None:
    lines = [
        "retry: 1000",
        "",
        ": keep-alive",
        "",
        "id: 1",
        "event: step",
        'data: {"a": 1}',
        "",
        'data: {"b": 2}',
        "",
        "id: 3",
    ]
    assert list(parse_events(iter(f"{line}\n" for line in lines))) == [
        ServerEvent("1", "step", {"a": 1}),
        ServerEvent(None, "message", {"b": 2}),
    ]


def test_an_event_that_broke_off_is_dropped() -> None:
    assert list(parse_events(iter(["id: 1\n", 'data: {"a": 1}\n']))) == []


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("preflight-failed", 5),
        ("operation-in-progress", 6),
        ("already-committed", 6),
        ("unavailable", 7),
        ("invalid-body", 2),
        ("internal", 1),
        ("etcd", 1),
        ("a-code-of-a-newer-agent", 1),
    ],
)
def test_exit_codes_of_problems(code: str, expected: int) -> None:
    assert Problem({"code": code}).exit_code == expected
    assert Problem({}).exit_code == 1


def test_every_exit_code_is_documented() -> None:
    epilog = build_parser().epilog or ""
    for code in {*exit_codes().values(), *words.EXIT_CODES.values()}:
        assert f"  {code} " in epilog


def operation(**changes: Any) -> dict[str, Any]:
    return {
        "id": "op-1",
        "kind": "migrate",
        "created_at": "2026-01-01T00:00:00.000Z",
        "finished_at": "2026-01-01T00:01:30.000Z",
        "outcome": None,
        "reason": None,
        "evidence": [],
        **changes,
    }


@pytest.mark.parametrize(
    ("outcome", "code"),
    [("succeeded", 0), ("rolled_back", 3), ("rollback_failed", 4), ("refused", 5), ("melted", 1), (None, 1)],
)
def test_exit_codes_of_outcomes(outcome: str | None, code: int) -> None:
    assert words.exit_code(operation(outcome=outcome)) == code


def test_sentences() -> None:
    done = operation(outcome="succeeded", evidence=[{"ok": True}, {"ok": True}])
    assert words.sentence(done) == "Done in 1m30s: this server runs on embedded etcd, with 2 facts proven."
    assert words.sentence({**done, "reason": "Not tidied up."}).endswith("Note: Not tidied up.")
    assert words.sentence({**done, "kind": "rollback"}).startswith("Done in 1m30s: this server is back on SQLite")
    back = operation(outcome="rolled_back", reason="A key is missing.")
    assert words.sentence(back).endswith("this server is as before. Reason: A key is missing.")
    assert words.next_command(done, "show") is None
    assert words.next_command(back, "show") == "Look at what failed: show"


def step(done: int, total: int, unit: str) -> dict[str, Any]:
    return {"progress": {"done": done, "total": total, "unit": unit}}


def test_progress_in_words() -> None:
    assert words.progress({"progress": None}) == ""
    assert words.progress(step(3, 10, "keys")) == "3 of 10 keys"
    assert words.progress(step(1000, 5 * 1024 * 1024, "bytes")) == "1000 B of 5.0 MiB"
    assert words.progress(step(0, 3 * 1024**3, "bytes")) == "0 B of 3.0 GiB"
    assert words.progress(step(5, 90, "seconds")) == "5s of 1m30s"


def test_the_deadline_in_words() -> None:
    assert words.left(operation()) == "no deadline yet"
    assert words.left(operation(deadline="2020-01-01T00:00:00Z")) == "deadline passed"
    assert words.left(operation(deadline="2099-01-01T00:00:00Z")).startswith("deadline in ")


def test_columns() -> None:
    assert aligned([["A", "LONG"], ["value", ""]]) == ["A      LONG", "value"]


def test_nothing_draws_on_the_terminal_but_we() -> None:
    assert clean("a\x1b[31mred\nb\tc\x00") == "a [31mred b c "
    assert clean("größer · ✓") == "größer · ✓"


def test_curl_is_quoted() -> None:
    command = curl(UnixSocket(Path("/run/a b/s")), "POST", "/v1/migrate", {"X": "it's"}, '{"a": "$HOME"}')
    assert command == (
        "curl --unix-socket '/run/a b/s' -X POST -H 'X: it'\"'\"'s' -d '{\"a\": \"$HOME\"}' http://localhost/v1/migrate"
    )


def test_global_options_stand_before_or_after_the_command() -> None:
    parser = build_parser()
    for arguments in (["--socket", "/s", "-o", "json", "status"], ["status", "-o", "json", "--socket", "/s"]):
        parsed = parser.parse_args(arguments)
        assert (parsed.socket, parsed.output, parsed.verbose) == (Path("/s"), "json", False)
