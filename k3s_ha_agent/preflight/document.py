"""docs/preflight.md out of the registry: ``python3 -m k3s_ha_agent.preflight.document > docs/preflight.md``."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from k3s_ha_agent.model import Kind
from k3s_ha_agent.preflight.run import Check, checks_for

_HEAD = """\
# Preflight: what is looked at before anything is changed

Every check is run when an operation is asked for, and by itself with `k3s-ha-agentctl preflight` or
`GET /v1/preflight?for=migrate`. A **refused** check forbids the operation (412 `preflight-failed`, exit code 5) and
nothing is changed; a **warned** one is shown and noted in the operation's events. Each result says what was found, what
is needed and what to do.

What cannot be found out is refused: a check that does not know does not pass. Where the reason is one that another
check refuses already (there is no SQLite database to look at because the server is on etcd), the checks that depend on
it say “Not looked at” and name that check.

The checks of a join ask the cluster too, through the server that is named in the request and with its server token
(decision 006), so they are made by `k3s-ha-agentctl join --dry-run` or `POST /v1/join` with `"dry_run": true`. Nothing
is changed on either side.

Nothing below k3s's data dir is changed by looking: the SQLite database is copied through SQLite's backup API into a
directory of the agent's own (0700, removed afterwards), and the integrity check runs on the copy.

This file is made from the checks themselves by `python3 -m k3s_ha_agent.preflight.document`; a test compares the two.
The last column names where the reason stands in docs/k3s-facts.md.
"""

_TITLES = {Kind.MIGRATE: "For a migration", Kind.JOIN: "For a join", Kind.ROLLBACK: "For a rollback"}


def render() -> str:
    return "\n".join([_HEAD, *_tables()])


def _tables() -> Iterator[str]:
    for kind, title in _TITLES.items():
        yield f"## {title}\n"
        yield "| check | looks at | refuses when | warns when | what to do | fact |"
        yield "|---|---|---|---|---|---|"
        for check in checks_for(kind):
            yield _row(check)
        yield ""


def _row(check: Check) -> str:
    about = check.about
    cells = (f"`{check.name}`", about.looks_at, about.refuses, about.warns, about.remedy, about.facts)
    return "| " + " | ".join(cell.replace("|", "\\|") or "—" for cell in cells) + " |"


if __name__ == "__main__":
    sys.stdout.write(render())
