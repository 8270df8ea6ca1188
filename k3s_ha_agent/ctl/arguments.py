"""The command line: what can be said, and what it means when nothing is said."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

from k3s_ha_agent import __version__
from k3s_ha_agent.durations import parse_duration
from k3s_ha_agent.model import Kind

PROGRAM = "k3s-ha-agentctl"
DEFAULT_SOCKET = Path("/run/k3s-ha-agent/api.sock")
DEFAULT_RECONNECT = "2m"

EPILOG = """\
exit codes:
  0 done   1 failed   2 usage   3 rolled back   4 rollback failed
  5 refused by preflight   6 conflict   7 agent unreachable   130 stopped watching (Ctrl-C)
"""


def duration(text: str) -> str:
    """A duration as the API takes it, checked here so that a slip is a usage error."""
    try:
        parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def idempotency_key(text: str) -> str:
    """A key as the API takes it: what is no header value would fail when it is sent."""
    if not re.fullmatch(r"[\x21-\x7e]{1,255}", text):
        raise argparse.ArgumentTypeError("not 1 to 255 visible ASCII characters; a UUID is a good key")
    return text


def positive(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 up")
    return number


def check(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """What no single option can tell; ends with a usage error."""
    files = (arguments.cacert, arguments.cert, arguments.key)
    if arguments.url is None and any(files):
        parser.error("--cacert, --cert and --key go with --url")
    if arguments.url is not None and not all(files):
        parser.error("--url needs --cacert, --cert and --key")
    if arguments.url is not None and arguments.socket != DEFAULT_SOCKET:
        parser.error("--url and --socket exclude each other")
    if arguments.url is not None and arguments.command in ("config", "support-bundle"):
        parser.error(f"{arguments.command} looks at the files of the server it runs on: leave out --url")


def build_parser() -> argparse.ArgumentParser:
    """The parser; also what man pages and shell completion are made from."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Moves this k3s server from SQLite to embedded etcd and back, and proves the data on the way.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("-V", "--version", action="version", version=f"{PROGRAM} {__version__}")
    _add_global(parser, defaults=True)
    # Also after the command, where people write them; there they have no default of their own.
    common = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    _add_global(common, defaults=False)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def command(name: str, text: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=text, description=text, parents=[common], allow_abbrev=False)

    command("status", "Show what this server is and what the agent is doing.")
    command("members", "Show the members of this server's etcd cluster and how many may fail.")

    preflight = command("preflight", "Make every check now and change nothing; exits 5 when one refuses.")
    preflight.add_argument(
        "--for", dest="kind", choices=[kind.value for kind in Kind], default="migrate", help="default: migrate"
    )

    migrate = command("migrate", "Move this server from SQLite to embedded etcd.")
    migrate.add_argument("--accept-slow-disk", action="store_true", help="go on although fsync is very slow")
    _add_operation(migrate)

    join = command("join", "Make this server a member of an etcd cluster.")
    join.add_argument("server", metavar="URL", help="a server of the cluster, like https://10.0.0.1:6443")
    join.add_argument(
        "--token-file",
        metavar="FILE",
        required=True,
        help="the cluster's token: a copy of /var/lib/rancher/k3s/server/token of one of its servers",
    )
    join.add_argument(
        "--on-conflict",
        choices=["refuse", "wait"],
        help="what to do when another server is joining just now (default: refuse)",
    )
    _add_operation(join)

    rollback = command("rollback", "Undo what this server committed last.")
    rollback.add_argument(
        "--writes",
        choices=["keep", "discard"],
        help="what becomes of writes made since; discard puts the pre-image back (default: keep)",
    )
    rollback.add_argument(
        "--confirm-lost-writes", action="store_true", help="with --writes discard: lose the writes made since"
    )
    _add_operation(rollback)

    operations = command("operations", "List operations, or show one.")
    operations.add_argument("id", metavar="ID", nargs="?", help="the operation to show")
    operations.add_argument("--limit", type=positive, metavar="N", help="how many to list, newest first (default: 50)")

    watch = command("watch", "Follow an operation to its end; exits with its outcome.")
    watch.add_argument("id", metavar="ID", nargs="?", help="default: the running or else the last operation")
    _add_reconnect(watch)

    abort = command("abort", "Abort a running operation; what it did is undone.")
    abort.add_argument("id", metavar="ID", help="the operation to abort")

    backups = command("backups", "List, verify or remove pre-images, the copies operations keep.")
    below = backups.add_subparsers(dest="subcommand", metavar="COMMAND", required=True)
    _sub(below, common, "list", "List the pre-images, newest first.")
    verify = _sub(
        below, common, "verify", "Read a pre-image and compare it with its manifest; exits 1 when it is damaged."
    )
    verify.add_argument("id", metavar="ID", nargs="*", help="of which operations (default: all)")
    prune = _sub(below, common, "prune", "Remove pre-images that nothing could need any more.")
    prune.add_argument("id", metavar="ID", nargs="*", help="of which operations (default: all that are not needed)")
    prune.add_argument("--keep", type=positive, metavar="N", help="keep the N newest of those, too")
    prune.add_argument("--dry-run", action="store_true", help="show what would be removed and remove nothing")
    prune.add_argument("-y", "--yes", action="store_true", help="do not ask for confirmation on a terminal")

    config = command("config", "Look at the agent's settings.")
    below = config.add_subparsers(dest="subcommand", metavar="COMMAND", required=True)
    validate = _sub(below, common, "validate", "Check the settings and the files they name; the agent need not run.")
    validate.add_argument("--config", type=Path, metavar="FILE", help="instead of /etc/k3s-ha-agent/config.yaml")
    validate.add_argument("--conf-d", type=Path, metavar="DIR", help="instead of /etc/k3s-ha-agent/conf.d")

    bundle = command("support-bundle", "Collect what a report of a problem needs into one file, without secrets.")
    bundle.add_argument(
        "--file", type=Path, metavar="FILE", help="where to write it (default: k3s-ha-agent-support-TIME.tar.gz here)"
    )
    bundle.add_argument(
        "--lines", type=positive, metavar="N", default=5000, help="how much of each journal (default: 5000)"
    )
    return parser


def _sub(below: Any, common: argparse.ArgumentParser, name: str, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = below.add_parser(
        name, help=text, description=text, parents=[common], allow_abbrev=False
    )
    return parser


def _add_global(parser: argparse.ArgumentParser, *, defaults: bool) -> None:
    def default(value: object) -> object:
        return value if defaults else argparse.SUPPRESS

    parser.add_argument(
        "--socket",
        type=Path,
        metavar="PATH",
        default=default(DEFAULT_SOCKET),
        help=f"the agent's socket (default: {DEFAULT_SOCKET})",
    )
    parser.add_argument(
        "--url",
        metavar="URL",
        default=default(None),
        help="another server's agent, like https://n1.example.org:9581 (its listen_tls); needs the next three",
    )
    for name, text in (
        ("--cacert", "PEM: the authority that signed that agent's certificate"),
        ("--cert", "PEM: your certificate; that agent's tls_admin or tls_read names it"),
        ("--key", "PEM: the key of your certificate"),
    ):
        parser.add_argument(name, type=Path, metavar="FILE", default=default(None), help=text)
    parser.add_argument(
        "-o", "--output", choices=["table", "json"], default=default("table"), help="for people or for scripts"
    )
    parser.add_argument(
        "-v", "--verbose", action="store_true", default=default(False), help="print each call as a curl command first"
    )
    parser.add_argument(
        "--no-color", action="store_true", default=default(False), help="no colours; also by the variable NO_COLOR"
    )


def _add_operation(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--timeout", type=duration, metavar="DURATION", help='roll back when it takes longer, e.g. "10m"'
    )
    parser.add_argument("--stability", type=duration, metavar="DURATION", help="how long the result must stay true")
    parser.add_argument("--dry-run", action="store_true", help="show the plan with its estimates and change nothing")
    parser.add_argument("--detach", action="store_true", help="do not follow it; print its id")
    parser.add_argument("-y", "--yes", action="store_true", help="do not ask for confirmation on a terminal")
    parser.add_argument(
        "--idempotency-key",
        type=idempotency_key,
        metavar="KEY",
        help="asking again with the same key is the same operation, not another",
    )
    _add_reconnect(parser)


def _add_reconnect(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--reconnect",
        type=duration,
        metavar="DURATION",
        default=DEFAULT_RECONNECT,
        help=f"how long to wait for an agent that went away while watching (default: {DEFAULT_RECONNECT})",
    )
