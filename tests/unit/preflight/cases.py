"""What must be refused or warned of, and the words that must appear.

``CASES`` has at least one case for each check, kind and status; test_checks.py holds that.
"""

from __future__ import annotations

from pathlib import Path

from k3s_ha_agent.host.resources import Listener, Memory
from k3s_ha_agent.k3s.apiserver import Readiness
from k3s_ha_agent.k3s.version import Version
from k3s_ha_agent.model import Datastore
from k3s_ha_agent.preflight.results import Missing
from k3s_ha_agent.preflight.subject import PreImage
from tests.unit.preflight.changes import (
    ENV,
    REFUSED,
    WARNED,
    Case,
    anywhere,
    both,
    configured,
    configured_token,
    data_dir_with_a_space,
    for_both,
    migrate,
    other_config_file,
    plain,
    replaced,
    rollback,
    slow,
    small,
    two_members,
    unpinned,
    with_addresses,
    with_files,
    with_kine,
    with_node,
    with_token,
)
from tests.unit.preflight.subjects import CONFIG, GIB, MIB, configuration, other_hash, unit

CASES: list[Case] = [
    # --- the unit and its configuration
    *for_both(
        "unit", REFUSED, replaced(unit=unit(load_state="not-found")), ("not-found", "systemctl status"), "absent"
    ),
    *for_both("unit", REFUSED, replaced(unit=unit(load_state="masked")), ("masked",), "masked"),
    *for_both(
        "unit",
        REFUSED,
        replaced(unit=unit(active_state="activating", sub_state="auto-restart", n_restarts=3)),
        ("auto-restart", "3 times", "journalctl -u k3s.service"),
        "auto-restart",
    ),
    *for_both(
        "unit", REFUSED, replaced(unit=unit(active_state="inactive", sub_state="dead")), ("inactive",), "stopped"
    ),
    *for_both("unit", REFUSED, replaced(unit=unit(job=815)), ("job 815", "list-jobs"), "job"),
    *for_both("unit", REFUSED, replaced(unit=unit(type="exec")), ("Type=exec", "Type=notify"), "type"),
    *for_both("unit", WARNED, replaced(unit=unit(n_restarts=2)), ("restarted it 2 times",), "restarted"),
    *for_both("agent-node", REFUSED, replaced(configuration=configuration(role="agent")), ("k3s agent",), "role"),
    *for_both("configuration", REFUSED, other_config_file, (CONFIG, "/etc/k3s/config.yaml", "k3s_config:"), "other"),
    *for_both("data-dir", REFUSED, configured("--data-dir=/mnt/k3s"), ("/mnt/k3s", "data_dir:"), "flag"),
    *for_both(
        "data-dir", REFUSED, configured(environment={"K3S_DATA_DIR": "/mnt/k3s"}), ("/mnt/k3s", ENV), "environment"
    ),
    *for_both("data-dir", REFUSED, data_dir_with_a_space, ("/mnt/k3s data", "gate"), "space"),
    *anywhere("external-datastore", "datastore-endpoint", "K3S_DATASTORE_ENDPOINT", "postgres://u:secret@db/k3s"),
    *anywhere("server-url", "server", "K3S_URL", "https://10.99.0.12:6443"),
    *anywhere("cluster-reset", "cluster-reset", "K3S_CLUSTER_RESET", "true"),
    *anywhere("cluster-reset", "cluster-reset-restore-path", None, "/tmp/snapshot"),
    *for_both("cluster-reset", REFUSED, with_files(reset_flag=True), ("reset-flag", "systemctl restart"), "flag-file"),
    *for_both("cluster-reset", REFUSED, configured("--cluster-reset=maybe"), ("cluster-reset",), "not-a-bool"),
    *anywhere("cluster-init", "cluster-init", "K3S_CLUSTER_INIT", "true"),
    *for_both("cluster-init", REFUSED, configured("--cluster-init=false"), ("Switched off", "stronger"), "off-on-line"),
    *for_both(
        "cluster-init",
        REFUSED,
        configured(yaml={f"{CONFIG}.d/zzz.yaml": "cluster-init: false\n"}),
        ("Switched off", "zzz.yaml"),
        "off-in-later-drop-in",
    ),
    *(
        migrate("disabled-components", REFUSED, configured(f"--{flag}"), (flag, "command line"), flag)
        for flag in ("disable-etcd", "disable-apiserver", "disable-controller-manager", "disable-agent")
    ),
    *for_both(
        "pending-changes",
        WARNED,
        with_files(changed_at={Path(CONFIG): 1_800_000_500.0}),
        (CONFIG, "systemctl restart k3s.service"),
        "newer-config",
    ),
    *for_both(
        "pending-changes",
        REFUSED,
        replaced(unit=unit(need_daemon_reload=True)),
        ("as it read them before they were changed", "systemctl daemon-reload", "systemctl restart k3s.service"),
        "reload",
    ),
    *for_both(
        "pending-changes",
        REFUSED,
        both(
            with_files(unit_drop_ins=tuple(Path(f"/etc/systemd/system/k3s.service.d/{n}.conf") for n in "ab")),
            replaced(unit=unit(drop_in_paths=(Path("/etc/systemd/system/k3s.service.d/a.conf"),))),
        ),
        ("k3s.service.d/b.conf came later", "systemctl daemon-reload"),
        "unread-drop-in",
    ),
    # --- versions
    migrate(
        "version",
        REFUSED,
        both(replaced(version=Version.parse("v1.22.1+k3s1")), replaced(running_version="v1.22.1+k3s1")),
        ("v1.22.1", "upgrade"),
        "old",
    ),
    *(
        migrate(
            "version", REFUSED, both(replaced(version=Version.parse(v)), replaced(running_version=v)), (v, "12478"), v
        )
        for v in ("v1.30.13+k3s1", "v1.31.9+k3s1", "v1.32.5+k3s1", "v1.33.1+k3s1")
    ),
    migrate(
        "running-version", REFUSED, replaced(running_version="v1.21.5+k3s2"), ("v1.21.5+k3s2", "restart"), "replaced"
    ),
    rollback(
        "same-version",
        REFUSED,
        replaced(version=Version.parse("v1.23.1+k3s1")),
        ("v1.23.1+k3s1", "Install k3s"),
        "upgraded",
    ),
    # --- the files
    migrate(
        "datastore",
        REFUSED,
        with_files(datastore=Datastore.ETCD, datastore_detail="member/wal exists.", migrated=True),
        ("on etcd already",),
        "etcd",
    ),
    migrate(
        "datastore",
        REFUSED,
        with_files(datastore=Datastore.HALF_COPIED, datastore_detail="A copy began and did not end."),
        ("did not end", "systemctl stop k3s.service", "mv /var/lib/rancher/k3s/server/db/etcd"),
        "half-copied",
    ),
    migrate("datastore", REFUSED, with_files(datastore=Datastore.NONE), ("data-dir",), "none"),
    rollback("etcd-in-use", REFUSED, with_files(datastore=Datastore.SQLITE), ("k3s on etcd",), "sqlite"),
    rollback("etcd-in-use", REFUSED, with_files(datastore=Datastore.HALF_COPIED), ("no state.db",), "both"),
    migrate("leftovers", REFUSED, with_files(leftovers=(Path("/d/tmp-etcd"),)), ("/d/tmp-etcd", "mv"), "tmp-etcd"),
    migrate("stale-migrated", REFUSED, with_files(migrated=True), ("state.db.migrated", "mv"), "there"),
    *for_both("tombstone", REFUSED, with_files(tombstone=True), ("tombstone", "mv"), "there"),
    *for_both(
        "credentials", REFUSED, with_files(credentials_missing=("cred/passwd",)), ("cred/passwd", "restart"), "passwd"
    ),
    *for_both("links", REFUSED, with_files(surprises=("state.db is a symbolic link to /x.",)), ("symbolic",), "link"),
    *for_both("same-mount", REFUSED, with_files(quarantine_mount=26), ("EXDEV", "findmnt"), "other-mount"),
    *for_both("writable", REFUSED, with_files(unwritable=(Path("/etc/rancher"),)), ("/etc/rancher", "findmnt"), "ro"),
    migrate("config-drop-in", REFUSED, with_files(config_drop_in=True), ("zz-k3s-ha-agent.yaml", "rm "), "there"),
    *for_both("gate", REFUSED, with_files(gate=True), ("zz-k3s-ha-agent-gate.conf", "daemon-reload"), "closed"),
    *for_both("gate", REFUSED, replaced(rescue_armed=True), ("timer", "systemctl stop"), "rescue"),
    *for_both("unfinished-operation", REFUSED, replaced(unfinished="op-1"), ("op-1", "watch op-1"), "unfinished"),
    # --- the database
    migrate(
        "sqlite", REFUSED, replaced(kine=Missing("It is malformed.", "sqlite", "mend")), ("malformed", "mend"), "bad"
    ),
    migrate("live-rows", REFUSED, with_kine(live_rows=0, live_bytes=0), ("no live key", "get namespaces"), "none"),
    migrate(
        "request-size",
        REFUSED,
        with_kine(biggest_key="/registry/configmaps/default/big", biggest_bytes=1536 * 1024 - 4096 + 1),
        ("/registry/configmaps/default/big", "max-request-bytes=2097152"),
        "over",
    ),
    migrate(
        "request-size",
        REFUSED,
        both(
            configured("--etcd-arg=max-request-bytes=8388608"),
            with_kine(biggest_key="/registry/x", biggest_bytes=2 * MIB - 4096 + 1),
        ),
        ("/registry/x", "Delete or split"),
        "over-what-the-client-sends",
    ),
    migrate("request-size", REFUSED, configured("--etcd-arg=max-request-bytes=2M"), ("2M", "not a number"), "nonsense"),
    migrate(
        "quota",
        REFUSED,
        both(with_kine(live_rows=100_000, live_bytes=GIB), replaced(memory=Memory(8 * GIB, 8 * GIB))),
        ("2.0 GiB", "quota-backend-bytes=8589934592"),
        "near",
    ),
    migrate("quota", REFUSED, configured("--etcd-arg=quota-backend-bytes=1000000"), ("976.6 KiB",), "configured"),
    migrate("quota", REFUSED, configured("--etcd-arg=quota-backend-bytes=big"), ("not a number",), "nonsense"),
    migrate("database-size", WARNED, with_files(sqlite_bytes=2 * GIB), ("2.0 GiB", "VACUUM"), "uncompacted"),
    migrate("bootstrap-key", REFUSED, with_token(short_hash="0" * 12), ("000000000000", "d39c08e28906"), "other"),
    migrate("bootstrap-key", REFUSED, configured_token("e3b0c44298fc"), (CONFIG, "e3b0c44298fc"), "configured"),
    migrate(
        "bootstrap-key",
        REFUSED,
        with_kine(bootstrap_keys=("/bootstrap/d39c08e28906", "/bootstrap/000000000000")),
        ("d39c08e28906 and 000000000000",),
        "two",
    ),
    migrate("bootstrap-key", WARNED, with_kine(bootstrap_keys=()), ("no /bootstrap/ key",), "none"),
    # --- the token
    *for_both(
        "token", REFUSED, replaced(server_token=Missing("It cannot be read.", "token")), ("cannot be read",), "no"
    ),
    *for_both(
        "token", REFUSED, with_token(ca_hash=other_hash("other")), ("CA hash", other_hash("other")[:12]), "other-ca"
    ),
    *for_both(
        "token", REFUSED, configured_token("d39c08e28906", other_hash("x")), (CONFIG, "CA hash"), "configured-other-ca"
    ),
    # --- the machine
    migrate("disk", REFUSED, small("state", 20 * MIB), ("/var/lib/k3s-ha-agent", "pre-image", "df -h"), "state"),
    migrate("disk", REFUSED, small("db", 200 * MIB), ("server/db", "etcd and its temporary copy"), "db"),
    migrate("disk", REFUSED, small("systemd", 1000), ("k3s.service.d", "the gate"), "systemd"),
    migrate("disk", REFUSED, small("config", 1000), ("config.yaml.d",), "config"),
    rollback("disk-rollback", REFUSED, small("db", 4 * MIB), ("server/db", "the pre-image put back"), "db"),
    migrate("memory", REFUSED, replaced(memory=Memory(GIB, MIB)), ("1.0 MiB", "3 times"), "little"),
    *(
        migrate(
            "ports",
            REFUSED,
            replaced(listeners={port: [Listener(12, "etcd", "127.0.0.1")]}),
            (f"{port} by etcd (process 12)", "ss -ltnp"),
            str(port),
        )
        for port in (2379, 2380, 2381, 2382, 2399, 2400)
    ),
    migrate(
        "ports",
        REFUSED,
        replaced(listeners={2379: [Listener(None, "", "0.0.0.0")]}),
        ("2379 by a process the agent is not shown on 0.0.0.0", "ss -ltnp"),
        "nameless",
    ),
    migrate("slow-disk", REFUSED, slow(0.101), ("101ms", "--accept-slow-disk"), "too-slow"),
    migrate("slow-disk", WARNED, slow(0.011), ("11ms",), "slow"),
    migrate("slow-disk", WARNED, both(slow(3.0), replaced(accept_slow_disk=True)), ("3s",), "accepted"),
    migrate(
        "slow-disk",
        WARNED,
        both(replaced(fsync=Missing("fsync could not be measured.", "slow-disk")), replaced(accept_slow_disk=True)),
        ("could not be measured",),
        "unmeasured-accepted",
    ),
    migrate("clock", WARNED, replaced(clock_synchronised=False), ("timedatectl set-ntp true",), "unsynchronised"),
    migrate("clock", WARNED, replaced(clock_synchronised=Missing("Nobody says.")), ("Nobody says.",), "unknown"),
    migrate("clock", WARNED, with_files(credentials_in_future=("cred/passwd",)), ("cred/passwd",), "future"),
    # --- addresses
    migrate("node-address", REFUSED, plain("--node-ip=10.99.0.12"), ("10.99.0.12", "10.99.0.11"), "other-pin"),
    migrate("node-address", REFUSED, with_addresses(local=("127.0.0.1",)), ("10.99.0.11", "ip -brief"), "gone"),
    migrate(
        "node-address",
        WARNED,
        both(unpinned, with_addresses(default="10.0.2.15")),
        ("10.0.2.15", "node-ip: 10.99.0.11"),
        "route",
    ),
    migrate(
        "dynamic-address",
        WARNED,
        both(unpinned, with_addresses(dynamic=("10.99.0.11",))),
        ("limited lifetime", "node-ip: 10.99.0.11"),
        "dhcp",
    ),
    migrate(
        "dual-stack",
        REFUSED,
        plain("--service-cidr=10.43.0.0/16,10.43"),
        ("'10.43' does not appear", "systemctl restart"),
        "no-network",
    ),
    migrate(
        "dual-stack",
        WARNED,
        plain("--cluster-cidr=10.42.0.0/16,2001:db8::/56"),
        ("not set", "node-ip"),
        "unpinned",
    ),
    migrate(
        "secrets-encryption",
        WARNED,
        with_files(encryption=True, encryption_stage="rotate"),
        ("rotate", "k3s secrets-encrypt status"),
        "rotating",
    ),
    migrate(
        "node", REFUSED, replaced(api_ready=Readiness(False, "HTTP 500: etcd")), ("HTTP 500: etcd", "readyz"), "api"
    ),
    migrate("node", REFUSED, with_node(ready=False), ("not Ready", "describe node n1"), "not-ready"),
    # --- the way back
    rollback(
        "pre-image", REFUSED, replaced(pre_image=Missing("There is none.", "pre-image")), ("There is none",), "none"
    ),
    rollback(
        "pre-image",
        REFUSED,
        replaced(pre_image=PreImage("op", Path("/b/op"), "", 5, "sealed.db is not what it says.")),
        ("/b/op", "sealed.db"),
        "damaged",
    ),
    rollback("sole-member", REFUSED, two_members, ("2 members", "n2-12345678"), "two"),
]
