"""The command line of the stand-in: ``server``, ``--version``, ``etcd-snapshot``, ``standin-seed``."""

from __future__ import annotations

import os
import socket
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from . import flags as flag_reader
from . import log, settings


def main(argv: Sequence[str]) -> None:
    command, rest = (argv[0], list(argv[1:])) if argv else ("--help", [])
    if command in ("--version", "-v"):
        print(version_text(settings.load().version.text))
    elif command == "server":
        serve(rest)
    elif command == "etcd-snapshot":
        etcd_snapshot(rest)
    elif command == "standin-seed":
        from . import seed

        seed.main(rest)
    else:
        sys.stderr.write("usage: k3s server [flags] | --version | etcd-snapshot save|list | standin-seed\n")
        raise SystemExit(0 if command in ("--help", "-h", "help") else 1)


def version_text(version: str) -> str:
    return f"k3s version {version} (3dbf1a5e)\ngo version go1.16.8"


def serve(argv: Sequence[str]) -> None:
    try:
        flags = flag_reader.read(argv, os.environ)
    except flag_reader.UsageError as error:
        sys.stderr.write(f"Incorrect Usage: {error}\n")
        log.fatal(str(error))
    from . import server

    standin = settings.load()
    try:
        server.run(flags, standin)
    except Exception:  # as a Go panic: told, exit 2, SQLite not closed on the way
        traceback.print_exc()
        log.leave(2)


def etcd_snapshot(argv: Sequence[str]) -> None:
    """``save`` (also the default, as in old releases) and ``list`` on a running server."""
    from . import snapshots

    act, rest = (argv[0], argv[1:]) if argv and not argv[0].startswith("-") else ("save", argv)
    options: dict[str, str] = {}
    words = list(rest)
    while words:
        name, equals, value = words.pop(0).lstrip("-").partition("=")
        options[flag_reader.ALIASES.get(name, name)] = value if equals or not words else words.pop(0)
    data_dir = Path(options.get("data-dir", "/var/lib/rancher/k3s"))
    server, node_name = data_dir / "server", options.get("node-name", socket.gethostname().lower())
    if act in ("ls", "list"):
        for entry in snapshots.listed(server):
            print(f"{entry['name']}\t{entry['size']}\t{entry['location']}")
        return
    if act != "save":
        log.fatal(f"the stand-in does not know etcd-snapshot {act}")
    name_file = server / "db/etcd/name"
    if not (server / "db/etcd/member/wal").is_dir():
        log.fatal("etcd datastore disabled")
    if "node-name" not in options and name_file.exists():
        node_name = name_file.read_text().rpartition("-")[0]
    try:
        directory = options.get("dir", options.get("etcd-snapshot-dir", ""))
        made = snapshots.save(server, 2379, node_name, options.get("name", "on-demand"), directory)
    except RuntimeError as error:
        log.fatal(str(error))
    log.info(f"Saving etcd snapshot to {made}")
