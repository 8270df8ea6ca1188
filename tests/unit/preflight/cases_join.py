"""What a join must be refused or warned of (k3s-facts J1 to J16), and the words that must appear."""

from __future__ import annotations

from pathlib import Path

from k3s_ha_agent.host.resources import Listener
from k3s_ha_agent.k3s.apiserver import Readiness
from k3s_ha_agent.k3s.supervisor import Encryption
from k3s_ha_agent.k3s.version import Version
from k3s_ha_agent.model import CheckStatus, Kind
from k3s_ha_agent.preflight.cluster import Admission, EtcdFacts, Port, Proxies
from k3s_ha_agent.preflight.results import Missing
from tests.unit.preflight.changes import (
    REFUSED,
    WARNED,
    Case,
    Change,
    both,
    configured_token,
    other_config_file,
    replaced,
    slow,
    with_addresses,
    with_files,
)
from tests.unit.preflight.joining import (
    URL,
    alone,
    also,
    flags,
    left_over,
    node,
    one_node,
    small_disk,
    theirs,
    two_families,
    unpinned,
    with_cluster,
    with_joiner,
)
from tests.unit.preflight.subjects import CONFIG, TOKEN, other_hash, unit


def join(check: str, status: CheckStatus, change: Change, *words: str, label: str = "") -> Case:
    return Case(check, Kind.JOIN, status, change, words, f"join-{check}-{label or status}")


JOIN_CASES: list[Case] = [
    # --- who answers, and whether it lets us in
    join(
        "target-url", REFUSED, with_cluster(url_problem="x is not like https://HOST:6443."), "https://10.99.0.11:6443"
    ),
    join("target-url", REFUSED, with_cluster(host_addresses=("10.99.0.13",)), "this server itself", label="own"),
    join(
        "target-answers",
        REFUSED,
        with_cluster(ca_hash=Missing("No answer from there.", "target-answers")),
        "No answer from there.",
        "6443",
    ),
    join("cluster-ca", REFUSED, with_cluster(ca_hash=other_hash("x")), other_hash("x")[:12], "another cluster answers"),
    join("cluster-ca", REFUSED, with_cluster(token_ca_hash=""), "bare password", "server/token", label="bare"),
    join(
        "certificate-name",
        REFUSED,
        with_cluster(certificate_problem="Hostname mismatch, certificate is not valid for 'lb'."),
        "Hostname mismatch",
        "tls-san",
    ),
    join(
        "token-accepted",
        REFUSED,
        with_cluster(admission=Admission(401, "Unauthorized", False)),
        "does not accept",
        "server/token",
    ),
    join(
        "target-etcd", REFUSED, with_cluster(admission=Admission(400, "", False)), "HTTP 400", "k3s-ha-agentctl migrate"
    ),
    join("target-etcd", REFUSED, with_cluster(admission=Admission(401, "", True)), "HTTP 401", "SQLite", label="2021"),
    join("target-api", REFUSED, with_cluster(api_ready=Readiness(False, "etcd failed")), "etcd failed", "readyz"),
    # --- the same software, set up the same way
    join(
        "cluster-version",
        REFUSED,
        replaced(version=Version.parse("v1.22.3+k3s1")),
        "k3s here is v1.22.3+k3s1",
        "INSTALL_K3S_VERSION",
    ),
    join("cluster-version", REFUSED, one_node(kubelet_version="v1.22.4+k3s1"), "n2 runs v1.22.4+k3s1", label="one"),
    *(
        join("critical-flags", REFUSED, flags(f"--{flag}={value}"), flag, "command line of k3s.service", label=flag)
        for flag, value in (
            ("cluster-cidr", "10.99.0.0/16"),
            ("service-cidr", "10.98.0.0/16"),
            ("cluster-dns", "10.43.0.11"),
            ("cluster-domain", "k3s.local"),
            ("flannel-backend", "host-gw"),
            ("disable-cloud-controller", "true"),
            ("disable-helm-controller", "true"),
            ("disable-kube-proxy", "true"),
            ("disable-network-policy", "true"),
            ("secrets-encryption", "true"),
            ("disable", "servicelb"),
        )
    ),
    *(
        join("critical-flags", REFUSED, theirs(**{field: value}), flag, "there", "by default", label=f"there-{flag}")
        for field, value, flag in (
            ("EncryptProvider", "secretbox", "secrets-encryption-provider"),
            ("EmbeddedRegistry", True, "embedded-registry"),
            ("FlannelIPv6Masq", True, "flannel-ipv6-masq"),
            ("FlannelExternalIP", True, "flannel-external-ip"),
            ("EgressSelectorMode", "pod", "egress-selector-mode"),
            ("SupervisorMetrics", True, "supervisor-metrics"),
        )
    ),
    join("critical-flags", REFUSED, flags(yaml={CONFIG: "cluster-domain: x.y\n"}), "x.y", CONFIG, label="in-config"),
    join(
        "critical-flags",
        REFUSED,
        theirs(Disables={"coredns": True}),
        "disable=traefik is off there and on here",
        label="components",
    ),
    join(
        "cluster-encryption",
        REFUSED,
        with_cluster(encryption=Encryption(True, "rotate", True)),
        "stage rotate",
        "k3s secrets-encrypt status",
    ),
    join(
        "cluster-encryption",
        REFUSED,
        with_cluster(encryption=Encryption(True, "start", False)),
        "different keys",
        label="hashes",
    ),
    join(
        "cluster-encryption",
        WARNED,
        both(theirs(EncryptSecrets=True), flags("--secrets-encryption")),
        "does not say whether",
    ),
    # --- a name and an address of its own
    join(
        "node-name-free",
        REFUSED,
        with_cluster(nodes=(node("n1", 11), node("n2", 12), node("n3", 14, ready=False))),
        "Node n3 at 10.99.0.14, not Ready",
        "delete node n3",
    ),
    join(
        "node-name-free",
        REFUSED,
        with_joiner(node_id_missing=True),
        "with-node-id",
        "/etc/rancher/node/id",
        label="with-id",
    ),
    join(
        "node-address-free",
        REFUSED,
        with_cluster(nodes=(node("n1", 11), node("n2", 12), node("n9", 13))),
        "10.99.0.13 is taken by Node n9",
    ),
    join("member-name-free", REFUSED, left_over, "n3-deadbeef (id c)", "etcdctl member remove c"),
    join("node-password", REFUSED, with_cluster(node_password=False), "n3.node-password.k3s", "delete secret"),
    join("own-address", REFUSED, flags(address="10.99.0.99"), "10.99.0.99", "ip -brief address"),
    join(
        "own-address",
        WARNED,
        both(
            unpinned,
            with_addresses(dynamic=("10.99.0.13",)),
        ),
        "DHCP",
        "node-ip: 10.99.0.13",
    ),
    # --- the cluster is well
    join("pending-learner", REFUSED, also("", 14, learner=True), "not started yet", "5 minutes", "on_conflict"),
    join("members-healthy", REFUSED, one_node(ready=False), "Node n2 is not Ready"),
    join(
        "members-healthy",
        REFUSED,
        one_node(conditions={"Ready": "True", "EtcdIsVoter": "False"}, reasons={"EtcdIsVoter": "MemberUnhealthy"}),
        "EtcdIsVoter=False (MemberUnhealthy)",
        label="votes",
    ),
    join("alarms", REFUSED, with_cluster(etcd=EtcdFacts(("NOSPACE",), 1)), "NOSPACE", "etcdctl alarm"),
    join("alarms", WARNED, with_cluster(etcd=Missing("gRPC only.")), "cannot be known from here", "gRPC only."),
    join("quorum", WARNED, alone, "2 servers: one failure stops the cluster, add a third"),
    # --- the way there
    join(
        "server-ports",
        REFUSED,
        with_cluster(ports={Port("n2", "10.99.0.12", 2380): "no route to host", Port("n1", "10.99.0.11", 2380): None}),
        "10.99.0.12:2380 of n2 (no route to host)",
    ),
    join(
        "proxies",
        REFUSED,
        with_joiner(proxies=Proxies(("HTTPS_PROXY in /etc/x.env",), ("10.99.0.11", "10.99.0.13"))),
        "HTTPS_PROXY in /etc/x.env would be used for 10.99.0.12",
        "NO_PROXY",
    ),
    join("cluster-clock", REFUSED, with_cluster(clock_offset=-31.0), "31 seconds behind ours", "set-ntp"),
    join("cluster-clock", WARNED, with_cluster(clock_offset=4.0), "4 seconds ahead of ours"),
    join("cluster-clock", WARNED, with_cluster(clock_offset=None), "does not say", label="silent"),
    # --- this machine
    join("empty-data-dir", REFUSED, with_joiner(server_entries=("db", "tls")), "holds db, tls", "mv "),
    join("agent-state", REFUSED, with_joiner(agent_unit=True), "k3s-agent.service", "k3s-agent-uninstall.sh"),
    join("agent-state", WARNED, with_joiner(agent_entries=("client-ca.crt",)), "client-ca.crt", "k3s-killall.sh"),
    join("configured-token", REFUSED, configured_token(other_hash("y")[:12]), CONFIG, "another token"),
    join("configured-token", REFUSED, configured_token(TOKEN.short_hash, other_hash("y")), CONFIG, label="ca"),
    join("disk-join", REFUSED, small_disk, "100.0 MiB free", "df -h"),
    join("unit", REFUSED, replaced(unit=unit(load_state="not-found")), "not-found", label="absent"),
    join("unit", REFUSED, replaced(unit=unit()), "active (running)", "k3s stopped", label="runs"),
    join("unit", REFUSED, replaced(unit=unit(active_state="inactive", sub_state="dead", job=8)), "job 8", label="job"),
    join("agent-node", REFUSED, flags(role="agent"), "k3s agent", "uninstall the agent"),
    join("configuration", REFUSED, other_config_file, CONFIG, "/etc/k3s/config.yaml"),
    join("data-dir", REFUSED, flags("--data-dir=/mnt/k3s"), "/mnt/k3s", "data_dir:"),
    join("external-datastore", REFUSED, flags("--datastore-endpoint=mysql://x"), "datastore-endpoint"),
    join("server-url", REFUSED, flags(f"--server={URL}"), "takes it back"),
    join("cluster-reset", REFUSED, flags("--cluster-reset"), "cluster-reset"),
    join("cluster-init", REFUSED, flags("--cluster-init"), "begins a cluster of its own"),
    join("config-drop-in", REFUSED, with_files(config_drop_in=True), "zz-k3s-ha-agent.yaml"),
    join("disabled-components", REFUSED, flags("--disable-etcd"), "disable-etcd"),
    join("gate", REFUSED, with_files(gate=True), "gate"),
    join("same-mount", REFUSED, with_files(quarantine_mount=26), "26", "EXDEV"),
    join("unfinished-operation", REFUSED, replaced(unfinished="x"), "Operation x is not finished"),
    join("writable", REFUSED, with_files(unwritable=(Path("/etc/rancher"),)), "/etc/rancher", "ReadWritePaths"),
    join("ports", REFUSED, replaced(listeners={6443: [Listener(7, "haproxy", "0.0.0.0")]}), "6443 by haproxy"),
    join("slow-disk", REFUSED, slow(0.2), "200ms"),
    join("slow-disk", WARNED, slow(0.02), "20ms"),
    join("clock", WARNED, replaced(clock_synchronised=False), "not synchronised"),
    join("dual-stack", WARNED, two_families, "IPv4 and IPv6"),
    join("dual-stack", REFUSED, flags("--node-ip", "10.99.0"), "'10.99.0' does not appear"),
]
