"""The command line of ``k3s-ha-fleet``."""

from __future__ import annotations

import argparse
from pathlib import Path

from k3s_ha_agent import __version__

PROGRAM = "k3s-ha-fleet"

EPILOG = """\
exit codes, the first that holds for any cluster:
  4    a rollback failed: a server needs a person
  6    stopped after too many failures, or because a canary is not done; clusters were not begun
  1    a cluster failed
  7    an agent cannot be reached
  3    a cluster was rolled back: it is as before
  5    a cluster is blocked, by preflight or by what it is; it was not touched
  0    all are done (plan: nothing stands in the way)
  2    usage, or fleet.yaml is not valid      130  stopped watching; what was begun goes on
"""


def build_parser() -> argparse.ArgumentParser:
    """The parser; also what man pages and shell completion are made from."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Brings many k3s clusters to embedded etcd with several servers, in waves, through their agents.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("-V", "--version", action="version", version=f"{PROGRAM} {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def command(name: str, text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        added.add_argument("fleet", metavar="FLEET.YAML", type=Path, help="the clusters, and the order to go in")
        added.add_argument("-o", "--output", choices=["table", "json"], default="table", help="for people or scripts")
        added.add_argument("--no-color", action="store_true", help="no colours; also by the variable NO_COLOR")
        added.add_argument(
            "--cluster", action="append", metavar="NAME", default=[], help="only this one; may be given several times"
        )
        return added

    plan = command("plan", "Show what apply would do where, with the checks made now; changes nothing.")
    apply = command("apply", "Migrate, join and verify, wave by wave. Run it again to go on where it was.")
    command("status", "Show what every server is.")
    for one in (plan, apply):
        one.add_argument("--retry", action="store_true", help="also what was rolled back before, once more")
    apply.add_argument("--log", type=Path, metavar="FILE", help="append every event as a line of JSON")
    apply.add_argument("-y", "--yes", action="store_true", help="do not ask for confirmation on a terminal")
    return parser
