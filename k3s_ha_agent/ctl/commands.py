"""The commands: each asks, prints, and returns its exit code."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from k3s_ha_agent.ctl import bundle, words
from k3s_ha_agent.ctl.arguments import DEFAULT_SOCKET, PROGRAM
from k3s_ha_agent.ctl.backups import BACKUPS
from k3s_ha_agent.ctl.client import CHECKS_TIMEOUT, AnswerLost, Client
from k3s_ha_agent.ctl.config import config
from k3s_ha_agent.ctl.follow import updates
from k3s_ha_agent.ctl.output import Output
from k3s_ha_agent.ctl.views import view_for
from k3s_ha_agent.durations import parse_duration
from k3s_ha_agent.errors import AgentUnreachable, BadRequest, NotFound

Arguments = argparse.Namespace
Command = Callable[[Arguments, Client, Output], int]

CHECKS = ("check", "status", "found", "needs", "remedy")
INTERRUPTED = 130
"""128 + SIGINT, as shells count."""
QUESTIONS = {
    "migrate": "Move {server} from SQLite to embedded etcd? k3s is stopped for a moment.",
    "join": "Make {server} a member of the cluster?",
    "rollback": "Undo what {server} committed last? k3s is stopped for a moment.",
}


def again(arguments: Arguments, *said: str) -> str:
    """A command of ours to run next, ready to be pasted."""
    where = [] if arguments.socket == DEFAULT_SOCKET else ["--socket", os.fspath(arguments.socket)]
    if arguments.url is not None:
        where = ["--url", arguments.url]
        for name in ("cacert", "cert", "key"):
            where += [f"--{name}", os.fspath(getattr(arguments, name))]
    return shlex.join([PROGRAM, *where, *said])


def operation_target(operation_id: str) -> str:
    return f"/v1/operations/{quote(os.fsencode(operation_id), safe='')}"


def status(arguments: Arguments, client: Client, output: Output) -> int:
    answer = client.get("/v1/status")
    if output.as_json:
        output.json(answer)
        return 0
    node, running, last = answer["node"], answer["running_operation"], answer["last_operation"]
    output.facts(
        [
            ("node", f"{_known(node['node_name'])} ({_yes_no(node['node_ready'], 'ready', 'not ready')})"),
            ("roles", _known(None if node["roles"] is None else ", ".join(node["roles"]) or "none")),
            ("k3s", f"{_known(node['k3s_version'])}, {node['unit']} is {_known(node['unit_active_state'])}"),
            ("API server", _yes_no(node["api_ready"], "ready", "not ready")),
            ("datastore", f"{node['datastore']}: {node['datastore_detail']}"),
            ("live keys", _known(node["live_keys"])),
            ("cluster", answer["cluster"]["sentence"]),
            ("gate", "closed" if node["gate_closed"] else "open"),
            ("rescue", "armed" if node["rescue_armed"] else "not armed"),
            ("running", "nothing" if running is None else f"{running['kind']} {running['id']}, {words.left(running)}"),
            ("last", "nothing" if last is None else f"{last['kind']} {last['id']}: {last['outcome']}"),
            ("agent", answer["agent"]["version"]),
        ]
    )
    if running is not None:
        output.line(f"Watch it: {again(arguments, 'watch', running['id'])}")
    return 0


def members(arguments: Arguments, client: Client, output: Output) -> int:
    """0 whatever is found: the question was answered."""
    answer = client.get("/v1/members")
    if output.as_json:
        output.json(answer)
        return 0
    if answer["members"]:
        output.table(("member", "node", "address", "is", "answers", "healthy"), words.member_rows(answer["members"]))
    output.line(answer["sentence"])
    return 0


def _known(value: object) -> str:
    return "unknown" if value is None else str(value)


def _yes_no(value: bool | None, yes: str, no: str) -> str:
    return "unknown" if value is None else yes if value else no


def preflight(arguments: Arguments, client: Client, output: Output) -> int:
    answer = client.get(f"/v1/preflight?for={arguments.kind}", timeout=CHECKS_TIMEOUT)
    if output.as_json:
        output.json(answer)
    else:
        output.table(CHECKS, words.check_rows(answer["checks"]))
        refused = [check["name"] for check in answer["checks"] if check["status"] == "refused"]
        output.line(
            f"Nothing stands against a {answer['for']}."
            if answer["ok"]
            else f"A {answer['for']} would be refused: {', '.join(refused)}."
        )
    return 0 if answer["ok"] else 5


def migrate(arguments: Arguments, client: Client, output: Output) -> int:
    body = _common_body(arguments)
    if arguments.accept_slow_disk:
        body["accept_slow_disk"] = True
    return _operate("migrate", body, arguments, client, output)


def join(arguments: Arguments, client: Client, output: Output) -> int:
    body = _common_body(arguments)
    body["server"] = arguments.server
    body["token"] = _token(arguments.token_file)
    if arguments.on_conflict is not None:
        body["on_conflict"] = arguments.on_conflict
    return _operate("join", body, arguments, client, output)


def _token(path: str) -> str:
    """The token of a file, read here: the agent's sandbox has a /tmp of its own."""
    try:
        return Path(path).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not text"
        raise BadRequest(f"The token file {path} cannot be read: {why}.") from error


def rollback(arguments: Arguments, client: Client, output: Output) -> int:
    body = _common_body(arguments)
    if arguments.writes is not None:
        body["writes"] = arguments.writes
    if arguments.confirm_lost_writes:
        body["confirm_lost_writes"] = True
    return _operate("rollback", body, arguments, client, output)


def _common_body(arguments: Arguments) -> dict[str, Any]:
    """Only what was said: what is not said is the agent's to decide."""
    said = {"timeout": arguments.timeout, "stability": arguments.stability, "dry_run": arguments.dry_run or None}
    return {name: value for name, value in said.items() if value is not None}


def _operate(kind: str, body: Mapping[str, Any], arguments: Arguments, client: Client, output: Output) -> int:
    if not arguments.dry_run and not _confirmed(kind, arguments, output):
        output.note("Nothing was done.")
        return 1
    headers = {} if arguments.idempotency_key is None else {"Idempotency-Key": arguments.idempotency_key}
    if output.live:
        output.note("Checking this server; with much data this takes a while.")
    try:
        answer = client.post(f"/v1/{kind}", body, headers, timeout=CHECKS_TIMEOUT)
    except AnswerLost as error:
        raise AnswerLost(
            f"{error.detail} Whether the {kind} began is not known.", next_step=f"See: {again(arguments, 'operations')}"
        ) from error
    except KeyboardInterrupt:
        output.note(f"The {kind} was asked for and goes on if it began. See: {again(arguments, 'operations')}")
        return INTERRUPTED
    if arguments.dry_run:
        _print_plan(answer, output)
        return 5 if answer["would_be_refused"] else 0
    if arguments.detach:
        if output.as_json:
            output.json(answer)
        else:
            output.line(f"{kind} {answer['id']} began. Watch it: {again(arguments, 'watch', answer['id'])}")
        return 0
    return _follow(answer, arguments, client, output)


def _confirmed(kind: str, arguments: Arguments, output: Output) -> bool:
    """Asked on a terminal only; a script has said what it wants by running the command."""
    if arguments.yes or not sys.stdin.isatty():
        return True
    question = QUESTIONS[kind].format(server=arguments.url or "this server")
    print(f"{question} [y/N] ", end="", file=output.err, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _print_plan(plan: Mapping[str, Any], output: Output) -> None:
    """The answer to a dry run: checks and steps as tables, the rest as names and values."""
    if output.as_json:
        output.json(plan)
        return
    output.table(CHECKS, words.check_rows(plan["checks"]))
    output.table(
        ("", "step", ""),
        [
            (str(n), step["name"], "after the commitment" if step["after_commitment"] else "")
            for n, step in enumerate(plan["steps"], 1)
        ],
    )
    groups = [name for name, value in plan.items() if isinstance(value, Mapping)]
    output.facts(words.named(name, value) for group in groups for name, value in plan[group].items())
    refused = f" It would be refused: {', '.join(plan['refused_by'])}." if plan["would_be_refused"] else ""
    output.line(f"This was a dry run: nothing was changed.{refused}")


def operations(arguments: Arguments, client: Client, output: Output) -> int:
    if arguments.id is not None:
        operation = client.get(operation_target(arguments.id))
        if output.as_json:
            output.json(operation)
        else:
            _print_operation(operation, output)
        return 0
    answer = client.get("/v1/operations" + (f"?limit={arguments.limit}" if arguments.limit else ""))
    if output.as_json:
        output.json(answer)
        return 0
    rows = [
        (o["id"], o["kind"], o["outcome"] or o["phase"], o["created_at"], o["reason"] or "")
        for o in answer["operations"]
    ]
    output.table(("id", "kind", "outcome", "began", "reason"), rows)
    return 0


def _print_operation(operation: Mapping[str, Any], output: Output) -> None:
    output.facts(
        [
            ("operation", f"{operation['kind']} {operation['id']}"),
            ("asked for by", operation["requested_by"]),
            ("began", operation["created_at"]),
            ("finished", operation["finished_at"] or words.left(operation)),
            ("committed", "yes" if operation["committed"] else "no"),
        ]
    )
    output.table(("step", "status", "took", "progress", "error"), words.step_rows(operation))
    _print_end(operation, output)


def _print_end(operation: Mapping[str, Any], output: Output) -> None:
    if operation["evidence"]:
        output.table(("evidence", "result", "found", "needed"), words.evidence_rows(operation))
    if words.finished(operation):
        output.line(words.sentence(operation))


def watch(arguments: Arguments, client: Client, output: Output) -> int:
    if arguments.id is not None:
        return _follow(client.get(operation_target(arguments.id)), arguments, client, output)
    answer = client.get("/v1/operations?limit=1")
    if not answer["operations"]:
        raise NotFound("There has been no operation on this server.", next_step=f"Run: {again(arguments, 'preflight')}")
    return _follow(answer["operations"][0], arguments, client, output)


def abort(arguments: Arguments, client: Client, output: Output) -> int:
    operation = client.post(f"{operation_target(arguments.id)}/abort", {}, {})
    if output.as_json:
        output.json(operation)
    else:
        output.line(
            f"{operation['kind']} {operation['id']} is being aborted and undone. "
            f"Watch it: {again(arguments, 'watch', operation['id'])}"
        )
    return 0


def _follow(operation: Mapping[str, Any], arguments: Arguments, client: Client, output: Output) -> int:
    identity = operation["id"]
    watch_again = again(arguments, "watch", identity)
    try:
        with view_for(output) as view:
            for update in updates(client, operation, patience=parse_duration(arguments.reconnect)):
                operation = update.operation
                view.show(update)
    except KeyboardInterrupt:
        output.note(f"Stopped watching; the {operation['kind']} goes on.")
        output.note(f"  Watch it again: {watch_again}")
        output.note(f"  Abort it:       {again(arguments, 'abort', identity)}")
        return INTERRUPTED
    except AgentUnreachable as error:
        raise AgentUnreachable(error.detail, next_step=f"{error.next_step}, then: {watch_again}") from error
    if output.as_json:
        output.json(operation)
    else:
        _print_end(operation, output)
    advice = words.next_command(operation, again(arguments, "operations", identity))
    if advice is not None:
        output.note(advice)
    return words.exit_code(operation)


def backups(arguments: Arguments, client: Client, output: Output) -> int:
    return BACKUPS[arguments.subcommand](arguments, client, output)


def support_bundle(arguments: Arguments, client: Client, output: Output) -> int:
    path = bundle.write(arguments.file, client, lines=arguments.lines)
    if output.as_json:
        output.json({"file": str(path)})
    else:
        output.line(f"Written to {path}, readable by you only.")
        output.line("Tokens, keys and passwords are taken out; look into it before you send it.")
    return 0


COMMANDS: Mapping[str, Command] = {
    "status": status,
    "members": members,
    "preflight": preflight,
    "migrate": migrate,
    "join": join,
    "rollback": rollback,
    "operations": operations,
    "watch": watch,
    "abort": abort,
    "backups": backups,
    "config": config,
    "support-bundle": support_bundle,
}
