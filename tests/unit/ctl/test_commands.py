"""What each command prints and with which code it exits, in a pipe."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from tests.unit.ctl.conftest import LIMIT, ROOT, Scene, environment

Agent = Callable[..., Scene]


def test_status(agent: Agent) -> None:
    scene = agent()
    result = scene.run("status")
    assert result.code == 0
    assert "datastore   sqlite: state.db is there, db/etcd/member/wal is not.\n" in result.out
    assert scene.run("-o", "json", "status").json == scene.run("status", "-o", "json").json
    assert scene.run("status", "-o", "json").json["node"]["live_keys"] == 1245


def test_members(agent: Agent) -> None:
    scene = agent(members=2)
    result = scene.run("members")
    assert result.code == 0
    assert result.out.splitlines() == [
        "MEMBER       NODE  ADDRESS     IS      ANSWERS  HEALTHY",
        "n1-00000001  n1    10.99.0.11  leader  yes      yes",
        "n2-00000002  n2    10.99.0.12  voter   yes      yes",
        "2 servers: one failure stops the cluster, add a third.",
    ]
    assert scene.run("members", "-o", "json").json["quorum"]["needed"] == 2
    assert "cluster     2 servers: one failure stops the cluster, add a third.\n" in scene.run("status").out


def test_members_on_sqlite(agent: Agent) -> None:
    assert agent().run("members").out == "This server runs on SQLite and stands alone.\n"


def test_status_while_something_runs(agent: Agent) -> None:
    scene = agent(hold_at="start-k3s")
    assert scene.run("migrate", "--detach").code == 0
    out = scene.run("status").out
    assert "running     migrate op-1, deadline in" in out
    assert f"Watch it: k3s-ha-agentctl --socket {scene.socket} watch op-1\n" in out


@pytest.mark.parametrize("refused", [False, True])
def test_preflight(agent: Agent, refused: bool) -> None:
    scene = agent(refused=refused)
    result = scene.run("preflight")
    assert result.code == (5 if refused else 0)
    lines = result.out.splitlines()
    assert lines[0].split() == ["CHECK", "STATUS", "FOUND", "NEEDS", "REMEDY"]
    assert len(lines) == 4 + refused
    assert ("Move db/etcd away." in lines[3]) == refused
    assert lines[-1] == ("A migrate would be refused: leftovers." if refused else "Nothing stands against a migrate.")
    result = scene.run("preflight", "-o", "json")
    assert (result.code, result.json["ok"]) == (5 if refused else 0, not refused)


def test_preflight_for(agent: Agent) -> None:
    scene = agent()
    assert scene.run("preflight", "--for", "rollback").out.endswith("Nothing stands against a rollback.\n")
    assert scene.run("preflight", "--for", "join").code == 2
    assert scene.run("preflight", "--for", "lunch").code == 2


OUTCOMES = [
    ({}, 0, "Done in ", "this server runs on embedded etcd, with one fact proven."),
    ({"fail_in": "prove"}, 3, "Rolled back after ", "keys-equal: found 1244, needed 1245."),
    ({"fail_in": "prove", "undo_fails": True}, 4, "ROLLBACK FAILED after ", "this server needs you."),
]


@pytest.mark.parametrize(("play", "code", "begin", "words"), OUTCOMES, ids=["0", "3", "4"])
def test_outcomes(agent: Agent, play: dict[str, Any], code: int, begin: str, words: str) -> None:
    scene = agent(**play)
    result = scene.run("migrate")
    assert result.code == code
    last = result.out.splitlines()[-1]
    assert last.startswith(begin)
    assert words in last
    assert "EVIDENCE    RESULT  FOUND" in result.out
    if code:
        assert "keys-equal  FALSE   1244" in result.out
        assert "operations op-1" in result.err
        assert "Undoing the operation: keys-equal" in result.out
        assert "prove failed" in result.out
    else:
        assert result.err == ""
    assert ("k3s-ha-agent-rescue.service" in result.err) == (code == 4)
    again = scene.run("watch", "op-1", "-o", "json")
    assert again.code == code
    assert again.json["id"] == "op-1"
    assert scene.run("operations", "op-1").code == 0


def test_plain_lines_show_how_it_went(agent: Agent) -> None:
    scene = agent(hold_at="prove")
    watching = scene.watch("migrate")
    watching.until("prove doing")
    scene.release()
    result = watching.end()
    assert result.code == 0
    lines = result.out.splitlines()
    assert any(line.startswith("start-k3s done") for line in lines)
    assert lines.index("prove doing") < next(n for n, line in enumerate(lines) if line.startswith("prove done"))


def test_progress_in_plain_lines(agent: Agent) -> None:
    scene = agent(hold_at="prove")
    scene.run("migrate", "--detach")
    scene.release()
    scene.run("watch")
    assert "1245 of 1245 keys" in scene.run("operations", "op-1").out


def test_nothing_is_drawn_in_a_pipe(agent: Agent) -> None:
    scene = agent(fail_in="prove")
    for arguments in (["status"], ["preflight"], ["migrate"], ["operations"], ["operations", "op-1"], ["watch"]):
        result = scene.run(*arguments, env=environment(TERM="xterm-256color", FORCE_COLOR="1"))
        assert "\x1b" not in result.out + result.err


@pytest.mark.parametrize("kind", ["migrate", "rollback"])
def test_json_is_the_record_at_the_end(agent: Agent, kind: str) -> None:
    scene = agent()
    result = scene.run(kind, "-o", "json", *(["--writes", "discard"] if kind == "rollback" else []))
    assert (result.code, result.err) == (0, "")
    assert (result.json["kind"], result.json["outcome"]) == (kind, "succeeded")


def test_refused_by_preflight(agent: Agent) -> None:
    scene = agent(refused=True)
    result = scene.run("migrate")
    assert result.code == 5
    assert "leftovers   refused" in result.out
    assert result.err.startswith("error: 1 of 3 checks refused.")
    result = scene.run("migrate", "-o", "json")
    assert (result.code, result.json["code"], len(result.json["checks"])) == (5, "preflight-failed", 3)
    result = scene.run("migrate", "--dry-run")
    assert result.code == 5
    assert "leftovers   refused" in result.out
    assert "It would be refused: leftovers." in result.out
    assert scene.run("migrate", "--dry-run", "-o", "json").code == 5
    assert scene.run("operations", "-o", "json").json == {"operations": []}


def test_conflict(agent: Agent) -> None:
    scene = agent(hold_at="start-k3s")
    scene.run("migrate", "--detach")
    result = scene.run("migrate")
    assert result.code == 6
    assert result.err.splitlines() == [
        "error: migrate op-1 is running.",
        f"  next: Watch it: k3s-ha-agentctl --socket {scene.socket} watch op-1",
    ]


def test_lost_writes(agent: Agent) -> None:
    scene = agent(writes_since=True)
    assert scene.run("rollback", "--writes", "discard").code == 6
    assert scene.run("rollback", "--writes", "discard", "--confirm-lost-writes").code == 0
    assert scene.run("rollback").code == 1
    assert scene.run("rollback", "--writes", "keep").code == 1


def test_dry_run(agent: Agent) -> None:
    scene = agent()
    result = scene.run("migrate", "--dry-run")
    assert result.code == 0
    assert "4  start-k3s\n" in result.out
    assert "7  clean-up        after the commitment\n" in result.out
    assert "live keys   1245\nlive bytes  2.0 KiB\ntimeout     5m\nfsync p99   unknown\n" in result.out
    assert result.out.endswith("This was a dry run: nothing was changed.\n")
    assert scene.run("migrate", "--dry-run", "-o", "json").json["estimates"]["live_keys"] == 1245
    assert scene.run("operations", "-o", "json").json == {"operations": []}


def test_detach_and_the_same_key(agent: Agent) -> None:
    scene = agent(hold_at="start-k3s")
    first = scene.run("migrate", "--detach", "--idempotency-key", "k1", "-o", "json")
    again = scene.run("migrate", "--detach", "--idempotency-key", "k1", "-o", "json")
    assert (first.code, again.code) == (0, 0)
    assert first.json["id"] == again.json["id"] == "op-1"
    assert scene.run("migrate", "--idempotency-key", "k1", "--timeout", "5m").code == 2
    assert "watch op-1" in scene.run("migrate", "--detach", "--idempotency-key", "k1").out


def test_what_was_said_is_what_is_asked(agent: Agent) -> None:
    scene = agent()
    result = scene.run(
        "migrate",
        "-o",
        "json",
        "--timeout",
        "10m",
        "--stability",
        "5s",
        "--accept-slow-disk",
        "--yes",
        "--reconnect",
        "9s",
    )
    assert result.json["parameters"] == {"timeout": "10m", "stability": "5s", "accept_slow_disk": True}


def test_operations(agent: Agent) -> None:
    scene = agent()
    assert scene.run("operations").out.split() == ["ID", "KIND", "OUTCOME", "BEGAN", "REASON"]
    scene.run("migrate")
    scene.run("migrate")
    assert [line.split()[0] for line in scene.run("operations").out.splitlines()] == ["ID", "op-2", "op-1"]
    assert len(scene.run("operations", "--limit", "1").out.splitlines()) == 2
    out = scene.run("operations", "op-1").out
    assert "asked for by  uid 0\n" in out
    assert "start-k3s       done" in out


def test_abort(agent: Agent) -> None:
    scene = agent(hold_at="start-k3s")
    scene.run("migrate", "--detach")
    result = scene.run("abort", "op-1")
    assert result.code == 0
    assert "watch op-1" in result.out
    assert scene.run("watch", "op-1").code == 3
    assert scene.run("abort", "op-1").code == 6
    assert scene.run("abort", "op-9").code == 2
    assert scene.run("abort", "../../v1/status").code == 2


def test_watch_with_nothing_to_watch(agent: Agent) -> None:
    scene = agent()
    result = scene.run("watch")
    assert result.code == 2
    assert "preflight" in result.err


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["lunch"],
        ["migrate", "--timeout", "30"],
        ["migrate", "--stability", "soon"],
        ["migrate", "--dry"],
        ["rollback", "--writes", "some"],
        ["operations", "--limit", "0"],
        ["abort"],
    ],
    ids=" ".join,
)
def test_usage(agent: Agent, arguments: list[str]) -> None:
    scene = agent()
    result = scene.run(*arguments)
    assert result.code == 2
    assert "usage:" in result.err
    assert scene.run("operations", "-o", "json").json == {"operations": []}


def test_help_names_the_exit_codes(scene: Scene) -> None:
    result = scene.run("--help")
    assert result.code == 0
    for words in ("3 rolled back", "4 rollback failed", "5 refused by preflight", "7 agent unreachable"):
        assert words in result.out


# --- curl, start-up, odd surroundings -------------------------------------------------------------------


def test_verbose_prints_commands_that_work(agent: Agent) -> None:
    scene = agent(hold_at="start-k3s")
    result = scene.run("-v", "migrate", "--detach", "--timeout", "5m", "--idempotency-key", "it's", "-o", "json")
    (command,) = result.err.splitlines()
    assert "'" in command
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=LIMIT, check=True)
    assert json.loads(done.stdout)["id"] == result.json["id"]
    scene.release()
    result = scene.run("watch", "-v", "op-1")
    commands = result.err.splitlines()
    assert [shlex.split(command)[0] for command in commands] == ["curl"] * len(commands)
    assert len(set(commands)) == len(commands)
    for command in commands:
        subprocess.run(["sh", "-c", f"{command} --fail"], capture_output=True, timeout=LIMIT, check=True)


def test_following_says_how_to_follow_by_curl(agent: Agent) -> None:
    scene = agent(hold_at="start-k3s")
    watching = scene.watch("-v", "migrate")
    watching.until("start-k3s doing")
    scene.release()
    result = watching.end()
    command = next(line for line in result.err.splitlines() if line.endswith("/events"))
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=LIMIT, check=True)
    assert "event: finished" in done.stdout


def test_starting_is_quick_because_little_is_imported(agent: Agent) -> None:
    scene = agent()
    command = [sys.executable, "-X", "importtime", *scene.command("status")[1:]]
    done = subprocess.run(
        command, env=environment(), cwd=ROOT, capture_output=True, text=True, timeout=LIMIT, check=True
    )
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "argparse" in imported
    assert imported.isdisjoint({"rich", "aiohttp", "asyncio", "structlog", "yaml", "psutil", "sqlite3"})


def test_output_that_nobody_reads(agent: Agent) -> None:
    scene = agent()
    for arguments in (["status"], ["operations"], ["migrate"], ["-o", "json", "status"]):
        read, write = os.pipe()
        os.close(read)
        done = subprocess.run(
            scene.command(*arguments), stdout=write, stderr=subprocess.PIPE, text=True, env=environment(), cwd=ROOT
        )
        os.close(write)
        assert (done.returncode, done.stderr) == (1, "")


def test_a_terminal_that_knows_only_ascii(agent: Agent) -> None:
    scene = agent()
    result = scene.run("preflight", env=environment(PYTHONIOENCODING="ascii"))
    assert (result.code, result.err) == (0, "")
    assert "? v1.22.2" in result.out


@pytest.mark.parametrize("arguments", [("status",), ("preflight", "-o", "json")])
def test_output_that_cannot_be_written(agent: Agent, arguments: tuple[str, ...]) -> None:
    scene = agent()
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            scene.command(*arguments), stdout=full, stderr=subprocess.PIPE, text=True, env=environment(), cwd=ROOT
        )
    assert done.returncode == 1
    assert done.stderr == "error: The output cannot be written: No space left on device.\n"


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_streams_that_are_closed_are_done_without(agent: Agent, closed: str) -> None:
    scene = agent(hold_at="stop-k3s")
    command = shlex.join(scene.command("migrate", "--detach"))
    done = subprocess.run(
        ["sh", "-c", f"{command} {closed}"], capture_output=True, text=True, env=environment(), cwd=ROOT
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert ("began" in done.stdout) == (">&-" not in closed.replace("2>&-", ""))
    assert scene.run("operations", "-o", "json").json["operations"][0]["kind"] == "migrate"


@pytest.mark.parametrize("key", ["\u043a\u043b\u044e\u0447", "a\nb", "a b", "", "x" * 256])
def test_a_key_that_is_none_is_a_slip_and_nothing_is_asked(agent: Agent, key: str) -> None:
    scene = agent()
    result = scene.run("migrate", "--idempotency-key", key)
    assert result.code == 2 and "visible ASCII" in result.err and "went away" not in result.err
    assert scene.run("operations", "-o", "json").json["operations"] == []


@pytest.mark.parametrize("command", ["operations", "watch", "abort", "backups verify", "backups prune"])
def test_an_id_that_is_no_text(agent: Agent, command: str) -> None:
    result = agent().run("-o", "json", *command.split(), "a\udcffb")
    assert (result.code, result.json["code"]) == (2, "not-found")
    assert "Traceback" not in result.err
