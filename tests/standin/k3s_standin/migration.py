"""k3s's own conversion, in the order of facts 4.2 and the 1.22.2 recording.

etcd runs and its wal exists before the first key. Each live key below /registry/ is logged and
put by a plain Put of its own: no leases, no revisions, no history ("ten facts" 7). The order is
that of kine's list, by id: so the recording's log and revisions show it. The rename is the last
act ("ten facts" 4); -wal and -shm stay because the database is still open when it is moved.
"""

from __future__ import annotations

import http.client
import shutil
import time
from pathlib import Path

from . import kine, log
from .etcd import Etcd
from .settings import Standin, hang
from .store import StoreError

PREFIX = "/registry/"


def migrate(server: Path, etcd: Etcd, standin: Standin) -> None:
    """Copy and rename; ends the process where k3s would."""
    source = server / "db/state.db"
    faults = standin.faults
    log.info("Migrating content from sqlite to etcd")
    database = kine.Kine(source, truncate_wal=standin.version.truncates_wal)
    log.info("Configuring sqlite3 database connection pooling: maxIdleConns=2, maxOpenConns=0, connMaxLifetime=0s")
    log.info("Configuring database table schema and indexes, this may take a moment...")
    log.info("Database tables and indexes are up to date")
    socket = kine.listen(server)
    log.info("Kine available at unix://kine.sock")
    if faults.hang_at == "before-copy" or faults.die_at == "before-copy" or faults.exit_at == "before-copy":
        etcd.wait_leader()
        standin.point("before-copy")
    number = 0
    for number, item in enumerate(database.by_id(PREFIX), start=1):
        if faults.hang_at_key == number and standin.fires("hang_at_key"):
            hang()
        log.info(f"Migrating etcd key {item.key}")
        if number == 1:
            etcd.wait_leader()  # the recording: the first Put waits for the election
        value = item.value
        if item.key in faults.alter_keys or number == faults.alter_key_number:
            value = altered(value)
        if item.key not in faults.skip_keys and number != faults.skip_key_number:
            _put(etcd, item.key, value)
        if standin.speed.put_delay:
            time.sleep(standin.speed.put_delay)
        if faults.die_after_keys == number and standin.fires("die_after_keys"):
            log.die()
    for key in faults.extra_keys:
        _put(etcd, key, b'{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"extra"}}')
    if number == 0:
        etcd.wait_leader()
    standin.point("after-copy")
    target = source.with_name("state.db.migrated")
    if faults.new_inode:
        shutil.copyfile(source, target)
        source.unlink()
    elif not faults.no_rename:
        source.rename(target)
    standin.point("after-rename")
    socket.close()
    if standin.version.closes_sqlite:
        database.close()


def altered(value: bytes) -> bytes:
    """Another value of the same length."""
    return value[:-1] + bytes([value[-1] ^ 1]) if value else b"x"


def _put(etcd: Etcd, key: str, value: bytes) -> None:
    try:
        etcd.gateway.put(key, value)
    except (StoreError, OSError, http.client.HTTPException) as error:
        # k3s's words; systemd starts it again and the next start skips the copy ("ten facts" 3).
        log.fatal(f"starting kubernetes: preparing server: failed to migrate content from sqlite to etcd: {error}")
