"""The entry point of ``k3s-ha-agentctl``: from the command line to an exit code."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from k3s_ha_agent.ctl import words
from k3s_ha_agent.ctl.arguments import build_parser, check
from k3s_ha_agent.ctl.client import Client, Problem
from k3s_ha_agent.ctl.commands import CHECKS, COMMANDS, INTERRUPTED, Arguments, again
from k3s_ha_agent.ctl.endpoint import Endpoint, UnixSocket, remote
from k3s_ha_agent.ctl.output import NotWritten, Output, silence
from k3s_ha_agent.errors import AgentError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit codes are those of errors.py and of ``--help``."""
    _open_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A sign the terminal has not got must not stop a rollback from being reported.
            stream.reconfigure(errors="replace")
    parser = build_parser()
    parsed = parser.parse_args(arguments)
    check(parser, parsed)
    output = Output(as_json=parsed.output == "json", no_color=parsed.no_color)
    try:
        client = Client(_endpoint(parsed), output.note if parsed.verbose else None)
        return COMMANDS[parsed.command](parsed, client, output)
    except Problem as problem:
        return _problem(problem, parsed, output)
    except AgentError as error:
        document = {"code": error.code, "title": error.title, "detail": error.detail, "next_step": error.next_step}
        if output.as_json:
            output.json(document)
        _complain(document, output)
        return error.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has left.
        silence(sys.stdout)
        return 1
    except NotWritten as error:
        silence(sys.stdout)
        output.note(f"error: {error}")
        return 1


def _open_closed_streams() -> None:
    """A stream that was closed (``>&-``) is None to Python, and its number would be given to the next file."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: PTH123, SIM115 - as long as the process


def _endpoint(arguments: Arguments) -> Endpoint:
    if arguments.url is None:
        return UnixSocket(arguments.socket)
    return remote(arguments.url, cacert=arguments.cacert, cert=arguments.cert, key=arguments.key)


def _problem(problem: Problem, arguments: Arguments, output: Output) -> int:
    document = dict(problem.document)
    if output.as_json:
        output.json(document)
    elif document.get("checks"):
        output.table(CHECKS, words.check_rows(document["checks"]))
    if document.get("code") == "operation-in-progress" and document.get("operation"):
        document["next_step"] = f"Watch it: {again(arguments, 'watch', str(document['operation']))}"
    _complain(document, output)
    return problem.exit_code


def _complain(document: Mapping[str, Any], output: Output) -> None:
    output.note(f"error: {document.get('detail') or document.get('title') or 'the agent refused'}")
    if document.get("next_step"):
        output.note(f"  next: {document['next_step']}")


if __name__ == "__main__":
    sys.exit(main())
