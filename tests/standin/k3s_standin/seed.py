"""A data dir to begin with: the recorded database with an identity of its own, and more rows.

``k3s standin-seed --data-dir DIR [--seed DIR] [--configmaps N] [--bytes M] [--leased N] …``
adds to what is there; nothing is checkpointed, so what is added last lies in the WAL only.
"""

from __future__ import annotations

import argparse
import os
import secrets
import shutil
import traceback
from collections.abc import Sequence
from pathlib import Path

from . import identity, kine, log, objects, pki
from .settings import Standin

RECORDING = Path(__file__).resolve().parents[2] / "recordings/k3s-1.22.2/sqlite"


def fresh(server: Path, standin: Standin) -> None:
    """Seed a data dir that has neither SQLite nor etcd nor a token, when the settings say so."""
    db = server / "db"
    begun = (server / "token", db / "state.db", db / "state.db.migrated", db / "etcd")
    if standin.seed and not any(path.exists() for path in begun):
        plant(server, Path(standin.seed))


def plant(server: Path, source: Path) -> None:
    """``_plant`` in a child that ends without closing the database: closing would checkpoint."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            _plant(server, source)
            code = 0
        finally:
            if code:
                traceback.print_exc()
            os._exit(code)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
        log.fatal(f"seeding {server} failed")


def _plant(server: Path, source: Path) -> None:
    """The recorded database below ``server``, with own CAs and the recorded password.

    ``server/token`` is written anew: its CA hash is that of the generated server-ca. The value of
    the bootstrap key is replaced by one that holds the generated CAs; its name follows from the
    password and stays.
    """
    for part in ("db", "tls/etcd", "cred"):
        (server / part).mkdir(parents=True, exist_ok=True, mode=0o700)
    # Not -shm: it is an index of the WAL that SQLite makes anew, and it changes with every reader.
    for name in ("state.db", "state.db-wal"):
        if (source / name).exists():
            shutil.copyfile(source / name, server / "db" / name)
            (server / "db" / name).chmod(0o644)
    recorded = source.parent / "token"
    password = identity.Token.parse(recorded.read_text()).password if recorded.exists() else secrets.token_hex(16)
    pki.ensure_cas(server / "tls")
    identity.write_credentials(server, password)
    database = kine.Kine(server / "db/state.db", truncate_wal=False)
    key = identity.Token(password).key
    value = identity.encrypt(password, identity.collect(server, with_times=True))
    if database.get(key) is None:
        database.create(key, value)
    else:
        database.replace_value(key, value)


def main(argv: Sequence[str]) -> None:
    """The subcommand; ends the process without closing the database."""
    parser = argparse.ArgumentParser(prog="k3s standin-seed", description=__doc__)
    parser.add_argument("--data-dir", "-d", type=Path, default=Path("/var/lib/rancher/k3s"))
    parser.add_argument("--seed", type=Path, help=f"directory of a state.db for a fresh data dir ({RECORDING})")
    parser.add_argument("--empty", action="store_true", help="begin with an empty database instead")
    parser.add_argument("--configmaps", type=int, default=0, help="how many ConfigMaps to add")
    parser.add_argument("--bytes", type=int, default=100, help="size of each one's data")
    parser.add_argument("--namespace", default="seeded")
    parser.add_argument("--prefix", default="seed-", help="names are PREFIX00000 and so on")
    parser.add_argument("--leased", type=int, default=0, help="how many Events with a TTL of 3660 s to add")
    parser.add_argument("--updates", type=int, default=0, help="how many of the ConfigMaps to write once more")
    parser.add_argument("--deletes", type=int, default=0, help="how many of the ConfigMaps to delete again")
    arguments = parser.parse_args(argv)
    server = arguments.data_dir.absolute() / "server"
    if not (server / "db/state.db").exists():
        plant(server, Path("/nonexistent/sqlite") if arguments.empty else arguments.seed or RECORDING)
    database = kine.Kine(server / "db/state.db", truncate_wal=False)
    add(database, arguments)
    log.info(f"seeded {server / 'db/state.db'}: revision {database.revision()}")
    log.leave(0)


def add(database: kine.Kine, arguments: argparse.Namespace) -> None:
    names = [f"{arguments.prefix}{number:05}" for number in range(arguments.configmaps)]
    with database.batch():
        for number, name in enumerate(names):
            database.create(*_configmap(arguments.namespace, name, arguments.bytes, number))
        for number, name in enumerate(names[: arguments.updates]):
            database.update(*_configmap(arguments.namespace, name, arguments.bytes, -number - 1))
        for name in names[len(names) - arguments.deletes :] if arguments.deletes else []:
            database.delete(objects.key("configmaps", arguments.namespace, name))
        for number in range(arguments.leased):
            name = f"{arguments.prefix}event-{number:05}"
            thing = {
                "apiVersion": "v1", "kind": "Event", "reason": "Seeded", "message": f"event {number}",
                "metadata": {"name": name, "namespace": arguments.namespace, "creationTimestamp": objects.now()},
            }  # fmt: skip
            database.create(objects.key("events", arguments.namespace, name), objects.stored(thing), 3660)


def _configmap(namespace: str, name: str, size: int, number: int) -> tuple[str, bytes]:
    text = f"{number} " + os.urandom(size // 2 + 1).hex()
    thing = {
        "apiVersion": "v1", "kind": "ConfigMap", "data": {"content": text[:size]},
        "metadata": {"name": name, "namespace": namespace, "creationTimestamp": objects.now()},
    }  # fmt: skip
    return objects.key("configmaps", namespace, name), objects.stored(thing)
