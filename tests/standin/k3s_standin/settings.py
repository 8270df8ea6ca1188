"""The stand-in's own settings: version, faults, speed. Read anew at every start.

File: ``/etc/k3s-standin.yaml``, or the one named by ``K3S_STANDIN_CONFIG``; a missing file means
defaults. An unknown key is an error, so that a mistyped fault cannot pass as "no fault".
"""

from __future__ import annotations

import dataclasses
import os
import sys
import time
from pathlib import Path
from typing import Any

from . import log
from .versions import Version

POINTS = (
    "start",  # before anything else
    "sqlite-open",  # a start that uses SQLite, before it is opened
    "etcd-existing",  # a start on an existing etcd, before it is started
    "wal-created",  # no leader yet; killed here, etcd may have lost its own membership and never serve
    "before-copy",  # etcd answers, no key copied
    "after-copy",  # every key copied, state.db not yet renamed
    "after-rename",  # state.db.migrated exists, no bootstrap key
    "after-bootstrap-key",
    "before-ready",  # API server ready, READY=1 not sent
    "after-ready",
    "before-join",  # the bootstrap data is fetched, no member added
    "after-member-add",  # this server is a learner, its etcd not started
    "before-promotion",  # etcd runs as a learner
)


@dataclasses.dataclass
class Faults:
    """What goes wrong. Every field is off by default."""

    once: bool = False
    """die_*, hang_* and exit_at act in one start only; remembered in ``<config file>.spent`` until
    the settings file is written anew."""
    die_once: bool = False
    """The same as ``once``."""
    die_after_keys: int | None = None
    hang_at_key: int | None = None
    """Stands still before the Put of this key, counted from 1."""
    die_at: str | None = None
    hang_at: str | None = None
    exit_at: str | None = None
    """A fatal line and exit 1 at the point."""
    exit_code: int = 1
    skip_keys: list[str] = dataclasses.field(default_factory=list)
    skip_key_number: int | None = None
    """Leaves out the n-th key, counted from 1 (its log line is written all the same)."""
    alter_keys: list[str] = dataclasses.field(default_factory=list)
    alter_key_number: int | None = None
    extra_keys: list[str] = dataclasses.field(default_factory=list)
    """Written to etcd in the copy though SQLite has no such key."""
    no_rename: bool = False
    new_inode: bool = False
    """state.db.migrated is a copy: right name, other inode."""
    no_bootstrap_key: bool = False
    no_role: bool = False
    no_node: bool = False
    """The Node never becomes Ready."""
    crash_after_ready: float | None = None
    """Exit 1 this many seconds after READY=1."""
    quota_backend_bytes: int | None = None
    """Passed to etcd: a small one ends the copy with a real NOSPACE."""
    api_never_ready: bool = False
    """503 for ever, READY=1 never sent."""
    api_hang: bool = False
    """Requests to the API server are never answered, READY=1 never sent."""
    api_hang_after_ready: bool = False
    ignore_sigterm: bool = False
    never_promote: bool = False
    """This server, when leader, promotes no learner."""


@dataclasses.dataclass
class Speed:
    """Durations in seconds unless named otherwise."""

    start_delay: float = 0.0
    put_delay: float = 0.0
    ready_delay: float = 0.0
    """Between the datastore being ready and the API server being ready."""
    role_delay: float = 0.5
    """From READY=1 to the etcd role on the Node; 2.7 to 2.9 s on a real node ("Seen" 9)."""
    stop_delay: float = 0.0
    heartbeat_ms: int = 10
    election_ms: int = 100
    heartbeat_interval: float = 1.0
    """Between the writes of node lease and master lease; 0 for none."""
    controller_tick: float = 0.2
    promote_tick: float = 1.0
    """15 s on a real server (4.5)."""
    learner_stalled: float = 300.0
    finalizer_delay: float = 1.0
    """How long a deleted Node stays whose member was removed by annotation before."""


@dataclasses.dataclass
class Standin:
    path: Path
    version: Version
    faults: Faults
    speed: Speed
    seed: str | None = None
    """Directory with state.db (and -wal, -shm) for a fresh data dir, its token beside it."""
    shim: bool = False
    """Leave a containerd-shim child behind, as KillMode=process does."""
    node_password_file: str | None = None
    """Real: /etc/rancher/node/password. None: no node password is made or checked."""
    kubeconfig: bool = False
    """Write /etc/rancher/k3s/k3s.yaml also when --write-kubeconfig is not given."""
    encryption_stage: str = "start"
    host: str | None = None
    """What the name of the etcd member begins with: releases of 2021 take the hostname up to its first dot, later ones
    (and None) the name of the Node."""

    def point(self, name: str) -> None:
        """A named moment of the start: dies, hangs or ends here when a fault says so."""
        faults = self.faults
        if faults.die_at == name and self.fires("die_at"):
            log.die()
        if faults.hang_at == name and self.fires("hang_at"):
            hang()
        if faults.exit_at == name and self.fires("exit_at"):
            log.fatal(f"starting kubernetes: preparing server: fault of the stand-in at {name}", faults.exit_code)

    def fires(self, fault: str) -> bool:
        if not (self.faults.once or self.faults.die_once):
            return True
        spent = self.path.with_name(self.path.name + ".spent")
        mark = f"{fault}@{self.path.stat().st_mtime_ns}"
        if spent.exists() and mark in spent.read_text().split():
            return False
        with spent.open("a") as file:
            file.write(f"{mark}\n")
            file.flush()
            os.fsync(file.fileno())
        return True


def hang() -> None:
    while True:
        time.sleep(3600)


def load() -> Standin:
    path = Path(os.environ.get("K3S_STANDIN_CONFIG", "/etc/k3s-standin.yaml"))
    given: dict[str, Any] = {}
    if path.exists():
        import yaml

        given = yaml.load(path.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)) or {}
    try:
        return parse(path, given)
    except (TypeError, ValueError) as error:
        sys.stderr.write(f"{path}: {error}\n")
        raise SystemExit(2) from error


def parse(path: Path, given: dict[str, Any]) -> Standin:
    given = dict(given)
    version = Version.parse(str(given.pop("version", "v1.22.2+k3s1")))
    faults = Faults(**(given.pop("faults", None) or {}))
    speed = Speed(**(given.pop("speed", None) or {}))
    for fault in ("die_at", "hang_at", "exit_at"):
        value = getattr(faults, fault)
        if value is not None and value not in POINTS:
            raise ValueError(f"{fault}: {value!r} is none of {', '.join(POINTS)}")
    return Standin(path=path, version=version, faults=faults, speed=speed, **given)
