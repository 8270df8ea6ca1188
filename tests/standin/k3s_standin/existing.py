"""A start where member/wal is already there: the copy is skipped ("ten facts" 1 and 3).

Whatever a first start left, half a copy or none, is taken for the datastore. What happens when it
lacks the bootstrap key is the big difference between releases (versions.py).
"""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path
from typing import Any, NoReturn

from . import identity, log
from .etcd import Etcd, end, run, security, wait_serving
from .gateway import EtcdStore, Gateway
from .node import Node


def bootstrap(node: Node, etcd: Etcd, token: identity.Token) -> None:
    """What comes before certificates are made and 6443 is opened."""
    log.info("Managed etcd cluster bootstrap already complete and initialized")
    node.standin.point("etcd-existing")
    # Without etcd's own certificates there is nothing to compare with: new CAs are made (R10).
    if node.standin.version.temporary_etcd and (node.server / "tls/etcd/server-client.crt").exists():
        reconcile(node, etcd, token)


def start(node: Node, etcd: Etcd) -> None:
    etcd.start(existing=True)
    etcd.wait_leader()
    test_membership(node, etcd)
    if node.standin.version.clears_nospace:
        clear_alarms(etcd)
    say_connected(node, etcd)


def reconcile(node: Node, etcd: Etcd, token: identity.Token) -> None:
    """The bootstrap data of a temporary etcd on a copy, compared with the files on disk."""
    version = node.standin.version
    log.info("Starting local etcd to reconcile with datastore")
    copy = node.server / "db" / (version.temporary_etcd or "etcd-tmp")
    found = bootstrap_of_copy(node, etcd, copy)
    log.info("Reconciling bootstrap data between datastore and disk")
    value = found.get(token.key)
    if value is None:
        if found:
            _fatal("bootstrap data already found and encrypted with different token")
        if version.missing_bootstrap_is_token_error:
            # The copy stays behind, as seen (R 17).
            _fatal("failed to normalize token; must be in format K10<CA-HASH>::<USERNAME>:<PASSWORD> or <PASSWORD>")
        if version.missing_bootstrap_is_fatal:
            shutil.rmtree(copy)
            _fatal("failed to bootstrap cluster data: no bootstrap data found in datastore - check server token value")
    elif version.reconciles:
        try:
            for path in identity.reconcile(node.server, identity.decrypt(token.password, value)):
                log.warning(f"Updated {path} from datastore")
        except identity.Newer as error:
            _fatal(
                f"{error} newer than datastore and could cause a cluster outage. Remove the file(s) from disk and"
                " restart to be recreated from datastore."
            )
        except identity.Wrong:
            _fatal("failed to decrypt bootstrap data: cipher: message authentication failed")
    shutil.rmtree(copy)


def bootstrap_of_copy(node: Node, etcd: Etcd, copy: Path) -> dict[str, bytes]:
    """Keys and values below /bootstrap/, read by an etcd on a copy, ports 2399 and 2400 (4.5)."""
    shutil.rmtree(copy, ignore_errors=True)
    copy.mkdir(mode=0o700)
    subprocess.run(["cp", "-a", "--sparse=always", etcd.directory / "member", copy], check=True)
    tls = node.server / "tls/etcd"
    configuration: dict[str, Any] = {
        "name": etcd.name, "data-dir": str(copy), "force-new-cluster": True,
        "listen-client-urls": "https://127.0.0.1:2399", "advertise-client-urls": "https://127.0.0.1:2399",
        "listen-peer-urls": "https://127.0.0.1:2400", "initial-advertise-peer-urls": "https://127.0.0.1:2400",
        "initial-cluster": f"{etcd.name}=https://127.0.0.1:2400",
        "client-transport-security": security(tls, "server-client", "server-ca"),
        "peer-transport-security": security(tls, "peer-server-client", "peer-ca"),
        "heartbeat-interval": node.standin.speed.heartbeat_ms, "election-timeout": node.standin.speed.election_ms,
        "logger": "zap", "log-outputs": ["stderr"],
    }  # fmt: skip
    process = run(configuration, quiet=True)
    log.at_exit(lambda: end(process) if process.poll() is None else None)
    gateway = Gateway(node.server / "tls", "127.0.0.1", 2399)

    def check() -> None:
        if process.poll() is not None:
            _fatal("the temporary etcd ended")

    try:
        wait_serving(gateway, check)
        return {item.key: item.value for item in EtcdStore(gateway).below("/bootstrap/")[1]}
    finally:
        end(process)


def say_connected(node: Node, etcd: Etcd) -> None:
    """The line that says etcd can be used: another one since 1.23 or so (4.2)."""
    if not node.standin.version.new_milestones:
        log.info("etcd data store connection OK")
        return
    status = etcd.gateway.status()
    size, quota = int(status.get("dbSize", 0)), node.standin.faults.quota_backend_bytes or 2147483648
    log.info(f"Connected to etcd v{status.get('version')} - datastore using {size} of {quota} bytes")
    log.info("Connection to etcd is ready")


def clear_alarms(etcd: Etcd) -> None:
    """NOSPACE is disarmed at start since 1.22.8 (4.8); etcd raises it again when it is still true."""
    for alarm in etcd.gateway.alarms():
        log.info(f"Disarming alarm {alarm.get('alarm')}")
        etcd.gateway.call("maintenance/alarm", {"action": "DEACTIVATE", **alarm})


def test_membership(node: Node, etcd: Etcd) -> None:
    """A changed address: "is a not a member of the etcd cluster", for ever in activating (M17)."""
    own = f"{etcd.name}=https://{node.address}:2380"
    while True:
        listed = [f"{m.get('name', '')}={m['peerURLs'][0]}" for m in etcd.gateway.members()]
        if own in listed:
            return
        words = f"this server is a not a member of the etcd cluster. Found {listed}, expect: {own}"
        log.info(f"Failed to test data store connection: {words}")
        time.sleep(5)


def handle_tombstone(node: Node) -> None:
    """db/etcd/tombstone: the member was removed; db/etcd goes to etcd-backup-<unix>, five are kept."""
    db = node.server / "db"
    if not (db / "etcd/tombstone").exists():
        return
    if node.standin.version.tombstone_needs_server and not node.flags.get("server"):
        _fatal("etcd tombstone file has been detected but --server is empty")
    backup = db / f"etcd-backup-{int(time.time())}"
    (db / "etcd").rename(backup)
    for old in sorted(db.glob("etcd-backup-*"))[:-5]:
        shutil.rmtree(old)
    log.info(f"etcd member was removed from the cluster; moved its data to {backup}")


def watch_membership(node: Node, etcd: Etcd) -> None:
    """etcd ends by itself when its member was removed: tombstone, and k3s ends (4.1, 4.6).

    That a real k3s does not always come to write it (4.9) is for a test to bring about, not for chance.
    """
    if not etcd.ended:
        return
    if etcd.removed():
        (etcd.directory / "tombstone").write_text("")
        _fatal("this node has been removed from the cluster please restart k3s to rejoin the cluster")
    etcd.check()


def _fatal(words: str) -> NoReturn:
    log.fatal(f"starting kubernetes: preparing server: {words}")
