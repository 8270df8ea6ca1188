"""``k3s server``: one start, in the order facts 4.2 and the recordings show."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import time
from pathlib import Path

from . import existing, identity, joining, kine, log, migration, pki, process, seed, supervisor, web
from .controllers import Controllers
from .etcd import Etcd
from .flags import Flags
from .gateway import EtcdStore
from .node import Node, default_address
from .settings import Standin
from .store import Exists, Store, StoreError


def run(flags: Flags, standin: Standin) -> None:
    """Start and serve until a signal ends the process."""
    node = prepare(flags, standin)
    log.info(f"Starting k3s {standin.version.text} (stand-in)")
    standin.point("start")
    if standin.speed.start_delay:
        time.sleep(standin.speed.start_delay)
    seed.fresh(node.server, standin)
    existing.handle_tombstone(node)
    etcd = Etcd(node.server, node.name, node.address, standin, flags)
    endpoint, server_url = flags.get("datastore-endpoint"), flags.get("server")
    if not given_token(flags):
        server_url = ""  # assignManagedDriver wants both: without a token it stays alone (J10)
    # assignManagedDriver: wal first, then an endpoint, then the flags ("ten facts" 1, M4).
    wanted = etcd.initialized or (not endpoint and (flags.on("cluster-init") or bool(server_url)))
    joins = wanted and not etcd.initialized and bool(server_url)
    node.etcd = etcd if wanted else None
    if not wanted and not endpoint and standin.version.etcd_name_on_sqlite:
        etcd.ensure_name()
    token = credentials(node, etcd, joins)
    if joins:
        joining.compare_critical(node, token)
    listen(node)
    if wanted and joins:
        join(node, etcd, token)
    elif wanted and etcd.initialized:
        existing.start(node, etcd)
    elif wanted:
        first_start(node, etcd)
    else:
        node.store = open_sqlite(node, endpoint)
    if wanted:
        node.store = EtcdStore(etcd.gateway)
        if standin.version.new_milestones:
            log.info("ETCD server is now running")
    if node.store is not None and not standin.faults.no_bootstrap_key:
        save_bootstrap(node, node.store, token)
    standin.point("after-bootstrap-key")
    come_up(node, etcd if wanted else None)


def prepare(flags: Flags, standin: Standin) -> Node:
    data_dir = Path(flags.get("data-dir", "/var/lib/rancher/k3s")).absolute()
    server = data_dir / "server"
    for part in ("db", "tls/etcd", "cred"):
        (server / part).mkdir(parents=True, exist_ok=True, mode=0o700)
    os.chdir(server)
    addresses = flags.all("node-ip")
    name = (flags.get("node-name") or socket.gethostname()).lower()
    node = Node(standin, flags, server, name, addresses[0] if addresses else default_address())
    signal.signal(signal.SIGTERM, lambda *_: stop(node))
    signal.signal(signal.SIGINT, lambda *_: stop(node))
    return node


def stop(node: Node) -> None:
    """SIGTERM: at once, SQLite not checkpointed ("Seen" 2, 9); containers stay."""
    if node.standin.faults.ignore_sigterm:
        return
    if node.standin.speed.stop_delay:
        time.sleep(node.standin.speed.stop_delay)
    if isinstance(node.store, kine.Kine) and node.standin.version.closes_sqlite:
        node.store.close()
    log.leave(0)


def given_token(flags: Flags) -> str:
    text = flags.get("token")
    if not text and flags.get("token-file"):
        text = Path(flags.get("token-file")).read_text().strip()
    return text


def credentials(node: Node, etcd: Etcd, joins: bool) -> identity.Token:
    """Token, certificates, cred: fetched by a server that joins, compared with etcd's, made where missing."""
    server, flags = node.server, node.flags
    text = given_token(flags)
    if not text and (server / "token").exists():
        text = (server / "token").read_text()
    token = identity.Token.parse(text)
    if joins:
        log.info("Managed etcd cluster not yet initialized")
        joining.fetch_bootstrap(node, token)
        node.standin.point("before-join")
    if not token.password:
        passwd = server / "cred/passwd"
        found = identity.users(server)["server"][0] if passwd.exists() else secrets.token_hex(16)
        token = identity.Token(found)
    if etcd.initialized:
        existing.bootstrap(node, etcd, token)
    pki.ensure_cas(server / "tls")
    pki.ensure_leaves(server / "tls", node.name, [node.address, *flags.all("node-ip")], flags.all("tls-san"))
    if token.ca_hash and token.ca_hash != pki.ca_hash(server / "tls") and flags.get("token"):
        log.fatal("starting kubernetes: preparing server: token CA hash does not match the Cluster CA certificate hash")
    identity.write_credentials(server, token.password)
    return token


def listen(node: Node) -> None:
    """6443 is open before the datastore is: /ping answers during the copy (4.2)."""
    tls = node.server / "tls"
    try:
        web.serve(node.flags.get("bind-address", "0.0.0.0"), node.port, tls, supervisor.Supervisor(node))
    except OSError as error:
        log.fatal(f"starting kubernetes: preparing server: listen tcp :{node.port}: bind: {error.strerror}")


def first_start(node: Node, etcd: Etcd) -> None:
    """A new etcd; the content of state.db goes in when there is one."""
    standin = node.standin
    log.info("Managed etcd cluster initializing")
    if standin.version.new_milestones:
        log.info("Starting etcd for new cluster, cluster-reset=false")
    etcd.start()
    standin.point("wal-created")
    if (node.server / "db/state.db").exists():
        migration.migrate(node.server, etcd, standin)
    etcd.wait_leader()
    existing.say_connected(node, etcd)


def join(node: Node, etcd: Etcd, token: identity.Token) -> None:
    cluster = joining.add_member(node, token)
    node.standin.point("after-member-add")
    etcd.start(initial_cluster=cluster, existing=True)
    node.standin.point("before-promotion")
    joining.wait_promoted(node)
    existing.say_connected(node, etcd)


def open_sqlite(node: Node, endpoint: str) -> kine.Kine:
    node.standin.point("sqlite-open")
    if node.standin.version.marks_joined:
        log.info("Cluster bootstrap already complete")
        (node.server / "db/joined-e3b0c44298fc").touch()
    log.info("Configuring sqlite3 database connection pooling: maxIdleConns=2, maxOpenConns=0, connMaxLifetime=0s")
    log.info("Configuring database table schema and indexes, this may take a moment...")
    # An external datastore is another kine database, far from db/ (README, "Where it is not k3s").
    external = node.server.parent / "external-datastore.db"
    database = kine.Kine(
        external if endpoint else node.server / "db/state.db", truncate_wal=node.standin.version.truncates_wal
    )
    log.info("Database tables and indexes are up to date")
    _sockets.append(kine.listen(node.server))
    log.info("Kine available at unix://kine.sock")
    return database


_sockets: list[socket.socket] = []


def save_bootstrap(node: Node, store: Store, token: identity.Token) -> None:
    """/bootstrap/<hash>, not copied from SQLite but saved from disk once etcd is ready (4.1)."""
    others = [item.key for item in store.below("/bootstrap/")[1] if item.key != token.key]
    if store.get(token.key) is None and others:
        log.fatal(
            "starting kubernetes: preparing server: bootstrap data already found and encrypted with different token"
        )
    if node.standin.version.new_milestones and node.etcd is not None:
        log.info("Saving cluster bootstrap data to datastore")
    data = identity.collect(node.server, with_times=node.standin.version.since(1, 22, 4))
    try:
        store.create(token.key, identity.encrypt(token.password, data))
    except StoreError as error:
        log.fatal(f"failed to save bootstrap data: {error}")
    except Exists:
        if node.etcd is not None:
            log.warning("bootstrap key already exists")


def come_up(node: Node, etcd: Etcd | None) -> None:
    """API server, Node, READY=1, then what goes on until the end."""
    standin, faults = node.standin, node.standin.faults
    controllers = Controllers(node)
    if node.runs_api:
        web.serve("127.0.0.1", node.api_port, node.server / "tls", lambda r: supervisor.kubernetes(node, r))
        log.info("Waiting for API server to become available")
        supervisor.wait_ready(node)
        register(controllers)
        log.info("Kube API server is now running")
    if standin.shim:
        process.spawn_shim()
    write_kubeconfig(node)
    standin.point("before-ready")
    log.info("k3s is up and running")
    node.ready = True
    notify("READY=1\n")
    controllers.start()
    standin.point("after-ready")
    ready_at = time.monotonic()
    while True:
        time.sleep(0.05)
        if faults.crash_after_ready is not None and time.monotonic() - ready_at >= faults.crash_after_ready:
            log.fatal("fault of the stand-in: crash after READY=1")
        if etcd is not None:
            existing.watch_membership(node, etcd)


def register(controllers: Controllers) -> None:
    """Again and again while the datastore takes no writes: "activating" for ever (M10)."""
    while True:
        try:
            controllers.register()
            return
        except StoreError as error:
            log.line("error", f"Unable to register node with API server: {error}")
            time.sleep(1)


def notify(text: str) -> None:
    """sd_notify; abstract sockets begin with @."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.sendto(text.encode(), "\0" + address[1:] if address.startswith("@") else address)


def write_kubeconfig(node: Node) -> None:
    target = node.flags.get("write-kubeconfig") or ("/etc/rancher/k3s/k3s.yaml" if node.standin.kubeconfig else "")
    if not target:
        return
    import base64

    tls = node.server / "tls"
    data = {n: base64.b64encode((tls / n).read_bytes()).decode() for n in
            ("server-ca.crt", "client-admin.crt", "client-admin.key")}  # fmt: skip
    text = (
        "apiVersion: v1\nkind: Config\ncurrent-context: default\n"
        f"clusters:\n- name: default\n  cluster:\n    server: https://127.0.0.1:{node.port}\n"
        f"    certificate-authority-data: {data['server-ca.crt']}\n"
        "contexts:\n- name: default\n  context: {cluster: default, user: default}\n"
        f"users:\n- name: default\n  user:\n    client-certificate-data: {data['client-admin.crt']}\n"
        f"    client-key-data: {data['client-admin.key']}\n"
    )
    pki.write(Path(target), text.encode())
    log.info(f"Wrote kubeconfig {target}")
