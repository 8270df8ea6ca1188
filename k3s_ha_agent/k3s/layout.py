"""Every path below k3s's data dir, and what the files there say about the datastore.

The paths are those of k3s-facts, "Files". Nothing here opens a file: verdicts rest on ``stat``
alone, so that they can be asked for as often as one likes, also while k3s runs.
"""

from __future__ import annotations

import dataclasses
import stat
from pathlib import Path

from k3s_ha_agent.model import Datastore

DEFAULT_DATA_DIR = Path("/var/lib/rancher/k3s")


@dataclasses.dataclass(frozen=True, slots=True)
class Layout:
    """The paths below one data dir (``--data-dir``)."""

    data_dir: Path = DEFAULT_DATA_DIR

    @property
    def server(self) -> Path:
        return self.data_dir / "server"

    @property
    def db(self) -> Path:
        return self.server / "db"

    # --- SQLite ---

    @property
    def state_db(self) -> Path:
        return self.db / "state.db"

    @property
    def state_db_wal(self) -> Path:
        return self.db / "state.db-wal"

    @property
    def state_db_shm(self) -> Path:
        return self.db / "state.db-shm"

    @property
    def state_db_migrated(self) -> Path:
        """The name ``state.db`` gets as the last act of k3s's own conversion. Its ``-wal`` keeps the old name."""
        return self.db / "state.db.migrated"

    @property
    def kine_sock(self) -> Path:
        return self.server / "kine.sock"

    # --- etcd ---

    @property
    def etcd(self) -> Path:
        return self.db / "etcd"

    @property
    def etcd_member_wal(self) -> Path:
        """Its existence alone makes k3s start on etcd (k3s-facts, "ten facts" 1)."""
        return self.etcd / "member" / "wal"

    @property
    def etcd_config(self) -> Path:
        """etcd's own configuration as YAML, written by k3s at each start."""
        return self.etcd / "config"

    @property
    def etcd_name(self) -> Path:
        """The member's name. Also there on SQLite servers of 2023-09 to 2026-03: it proves nothing."""
        return self.etcd / "name"

    @property
    def tombstone(self) -> Path:
        return self.etcd / "tombstone"

    @property
    def reset_flag(self) -> Path:
        return self.db / "reset-flag"

    @property
    def snapshots(self) -> Path:
        return self.db / "snapshots"

    # --- token, certificates ---

    @property
    def token_file(self) -> Path:
        return self.server / "token"

    @property
    def node_token(self) -> Path:
        return self.server / "node-token"

    @property
    def passwd(self) -> Path:
        return self.cred / "passwd"

    @property
    def cred(self) -> Path:
        return self.server / "cred"

    @property
    def tls(self) -> Path:
        return self.server / "tls"

    @property
    def etcd_client_cert(self) -> Path:
        return self.tls / "etcd" / "client.crt"

    @property
    def etcd_client_key(self) -> Path:
        return self.tls / "etcd" / "client.key"

    @property
    def etcd_server_ca(self) -> Path:
        return self.tls / "etcd" / "server-ca.crt"

    @property
    def admin_cert(self) -> Path:
        return self.tls / "client-admin.crt"

    @property
    def admin_key(self) -> Path:
        return self.tls / "client-admin.key"

    @property
    def server_ca(self) -> Path:
        return self.tls / "server-ca.crt"

    # --- ours ---

    @property
    def quarantine(self) -> Path:
        """Where undoing moves what k3s left behind: the same file system as ``server/db``, but
        outside of it, so that k3s never finds it again."""
        return self.data_dir / "k3s-ha-agent" / "quarantine"

    def leftovers(self) -> tuple[Path, ...]:
        """The temporary etcd directories of a start that was cut short, those that exist.

        ``tmp-etcd`` of 2021-12 (k3s-facts, "Seen" 17), ``etcd-tmp`` of later releases ("Files").
        """
        return tuple(p for p in (self.db / "tmp-etcd", self.db / "etcd-tmp") if p.exists())

    def set_aside(self) -> tuple[Path, ...]:
        """Old etcd directories k3s itself moved away (restore, tombstone), those that exist."""
        return tuple(sorted([*self.db.glob("etcd-old-*"), *self.db.glob("etcd-backup-*")]))


def etcd_initialized(layout: Layout) -> bool:
    """Whether k3s would start on etcd, whatever its configuration says.

    k3s asks only whether ``db/etcd/member/wal`` is a directory (IsInitialized, pkg/etcd/etcd.go).
    OSError when the path cannot be looked at: not knowing is not "no".
    """
    try:
        return stat.S_ISDIR(layout.etcd_member_wal.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def datastore(layout: Layout) -> tuple[Datastore, str]:
    """What k3s would start on by the files alone, and the sentence that says why.

    External datastores and ``cluster-init`` are configuration and not looked at here. OSError
    when a path cannot be looked at.
    """
    initialized = etcd_initialized(layout)
    if not initialized and layout.etcd_member_wal.exists():
        return Datastore.HALF_COPIED, f"{layout.etcd_member_wal} is there but is not a directory."
    state_db = _exists(layout.state_db)
    migrated = _exists(layout.state_db_migrated)
    if initialized and state_db:
        return (
            Datastore.HALF_COPIED,
            f"{layout.etcd_member_wal} exists while {layout.state_db} still has its old name: "
            "a copy to etcd began and did not end; k3s would start on the unfinished copy.",
        )
    if initialized:
        renamed = f" and {layout.state_db_migrated.name} is what it was converted from" if migrated else ""
        return Datastore.ETCD, f"{layout.etcd_member_wal} exists, {layout.state_db.name} does not{renamed}."
    if state_db:
        return Datastore.SQLITE, f"{layout.state_db} exists, {layout.etcd_member_wal} does not."
    if migrated:
        return (
            Datastore.NONE,
            f"Neither {layout.state_db} nor {layout.etcd_member_wal} exists, only {layout.state_db_migrated.name}: "
            "k3s would start with an empty datastore.",
        )
    return Datastore.NONE, f"Neither {layout.state_db} nor {layout.etcd_member_wal} exists."


def _exists(path: Path) -> bool:
    """Like ``Path.exists``, but a dangling link counts as there, and other errors are raised."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True
