"""What must be refused or warned of: one thing changed in a good Subject, and the words that must appear.

``CASES`` has at least one case for each check, kind and status; test_checks.py holds that.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from k3s_ha_agent.host.resources import Disk, FsyncProbe, Listener, Memory
from k3s_ha_agent.k3s.apiserver import Node, Readiness
from k3s_ha_agent.k3s.configuration import Configuration, effective
from k3s_ha_agent.k3s.etcd import Member
from k3s_ha_agent.k3s.kine import KineSummary
from k3s_ha_agent.k3s.version import Version
from k3s_ha_agent.model import CheckStatus, Datastore, Kind
from k3s_ha_agent.preflight.results import Missing
from k3s_ha_agent.preflight.subject import Addresses, Places, PreImage, Subject, TokenFacts
from tests.unit.preflight.subjects import CONFIG, GIB, MIB, configuration, files, other_hash, unit

Change = Callable[[Subject], Subject]
REFUSED, WARNED = CheckStatus.REFUSED, CheckStatus.WARNED


class Case(NamedTuple):
    check: str
    kind: Kind
    status: CheckStatus
    change: Change
    words: tuple[str, ...]
    """What ``found``, ``needs`` and ``remedy`` together must say."""
    label: str


def _with(**changes: Any) -> Change:
    return lambda subject: dataclasses.replace(subject, **changes)


def _files(**changes: Any) -> Change:
    return lambda subject: files(subject, **changes)


def _configuration(*flags: str, **more: Any) -> Change:
    """More flags on top of what the good Subject's kind has."""

    def change(subject: Subject) -> Subject:
        yaml = dict(more.get("yaml") or {})
        if subject.kind is Kind.ROLLBACK:
            yaml[str(subject.drop_in)] = "cluster-init: true\n"
        found = configuration(*flags, yaml=dict(sorted(yaml.items())), environment=more.get("environment"))
        return dataclasses.replace(subject, configuration=found)

    return change


def _kine(**changes: Any) -> Change:
    def change(subject: Subject) -> Subject:
        assert isinstance(subject.kine, KineSummary)
        return dataclasses.replace(subject, kine=dataclasses.replace(subject.kine, **changes))

    return change


def _node(**changes: Any) -> Change:
    def change(subject: Subject) -> Subject:
        assert isinstance(subject.node, Node)
        return dataclasses.replace(subject, node=dataclasses.replace(subject.node, **changes))

    return change


def _addresses(**changes: Any) -> Change:
    def change(subject: Subject) -> Subject:
        assert isinstance(subject.addresses, Addresses)
        return dataclasses.replace(subject, addresses=dataclasses.replace(subject.addresses, **changes))

    return change


def _both(*changes: Change) -> Change:
    def change(subject: Subject) -> Subject:
        for each in changes:
            subject = each(subject)
        return subject

    return change


def _small(place: str, free: int) -> Change:
    """One place on a file system of its own with so much free."""

    def change(subject: Subject) -> Subject:
        assert isinstance(subject.places, Places)
        old = getattr(subject.places, place)
        new = dataclasses.replace(old, disk=Disk(total=GIB, free=free, device=77))
        return dataclasses.replace(subject, places=dataclasses.replace(subject.places, **{place: new}))

    return change


def _token(**changes: Any) -> Change:
    def change(subject: Subject) -> Subject:
        assert isinstance(subject.server_token, TokenFacts)
        return dataclasses.replace(subject, server_token=dataclasses.replace(subject.server_token, **changes))

    return change


def _configured_token(short_hash: str, ca_hash: str | None = None) -> Change:
    return _with(configured_tokens=(TokenFacts(f"token ({CONFIG})", short_hash, ca_hash),))


ENV = "/etc/systemd/system/k3s.service.env"


def _plain(*flags: str) -> Change:
    """A command line of its own, without the recorded ``--node-ip``."""
    return _with(configuration=effective(["/usr/local/bin/k3s", "server", *flags], [], []))


_unpinned = _plain()


def _other_config_file(subject: Subject) -> Subject:
    assert isinstance(subject.configuration, Configuration)
    other = dataclasses.replace(subject.configuration, config_file=Path("/etc/k3s/config.yaml"))
    return dataclasses.replace(subject, configuration=other)


def _slow(p99: float) -> Change:
    return _with(fsync=FsyncProbe(rounds=100, p50=p99 / 2, p99=p99, max=p99))


def _member(name: str) -> Member:
    return Member(7, name, ("https://10.99.0.12:2380",), (), True)


def _two_members(subject: Subject) -> Subject:
    assert not isinstance(subject.members, Missing)
    return dataclasses.replace(subject, members=(*subject.members, _member("n2-12345678")))


def _for_both(check: str, status: CheckStatus, change: Change, words: tuple[str, ...], label: str) -> Iterator[Case]:
    for kind in (Kind.MIGRATE, Kind.ROLLBACK):
        yield Case(check, kind, status, change, words, f"{check}-{label}-{kind}")


def _migrate(check: str, status: CheckStatus, change: Change, words: tuple[str, ...], label: str) -> Case:
    return Case(check, Kind.MIGRATE, status, change, words, f"{check}-{label}")


def _rollback(check: str, status: CheckStatus, change: Change, words: tuple[str, ...], label: str) -> Case:
    return Case(check, Kind.ROLLBACK, status, change, words, f"{check}-{label}")


def _anywhere(check: str, flag: str, variable: str | None, value: str) -> Iterator[Case]:
    """The same thing said on the command line, in config.yaml, in a drop-in and in the environment."""
    places: dict[str, tuple[Change, str]] = {
        "command-line": (_configuration(f"--{flag}={value}"), "command line of k3s.service"),
        "config": (_configuration(yaml={CONFIG: f"{flag}: {value}\n"}), CONFIG),
        "drop-in": (_configuration(yaml={f"{CONFIG}.d/a.yaml": f"{flag}: {value}\n"}), f"{CONFIG}.d/a.yaml"),
    }
    if variable:
        places["environment"] = (_configuration(environment={variable: value}), ENV)
    for label, (change, source) in places.items():
        yield from _for_both(check, REFUSED, change, (flag, source, "systemctl daemon-reload"), f"{flag}-{label}")


CASES: list[Case] = [
    # --- the unit and its configuration
    *_for_both("unit", REFUSED, _with(unit=unit(load_state="not-found")), ("not-found", "systemctl status"), "absent"),
    *_for_both("unit", REFUSED, _with(unit=unit(load_state="masked")), ("masked",), "masked"),
    *_for_both(
        "unit",
        REFUSED,
        _with(unit=unit(active_state="activating", sub_state="auto-restart", n_restarts=3)),
        ("auto-restart", "3 times", "journalctl -u k3s.service"),
        "auto-restart",
    ),
    *_for_both("unit", REFUSED, _with(unit=unit(active_state="inactive", sub_state="dead")), ("inactive",), "stopped"),
    *_for_both("unit", REFUSED, _with(unit=unit(job=815)), ("job 815", "list-jobs"), "job"),
    *_for_both("unit", WARNED, _with(unit=unit(n_restarts=2)), ("restarted it 2 times",), "restarted"),
    *_for_both("agent-node", REFUSED, _with(configuration=configuration(role="agent")), ("k3s agent",), "role"),
    *_for_both("configuration", REFUSED, _other_config_file, (CONFIG, "/etc/k3s/config.yaml", "k3s_config:"), "other"),
    *_for_both("data-dir", REFUSED, _configuration("--data-dir=/mnt/k3s"), ("/mnt/k3s", "data_dir:"), "flag"),
    *_for_both(
        "data-dir", REFUSED, _configuration(environment={"K3S_DATA_DIR": "/mnt/k3s"}), ("/mnt/k3s", ENV), "environment"
    ),
    *_anywhere("external-datastore", "datastore-endpoint", "K3S_DATASTORE_ENDPOINT", "postgres://u:secret@db/k3s"),
    *_anywhere("server-url", "server", "K3S_URL", "https://10.99.0.12:6443"),
    *_anywhere("cluster-reset", "cluster-reset", "K3S_CLUSTER_RESET", "true"),
    *_anywhere("cluster-reset", "cluster-reset-restore-path", None, "/tmp/snapshot"),
    *_for_both("cluster-reset", REFUSED, _files(reset_flag=True), ("reset-flag", "systemctl restart"), "flag-file"),
    *_for_both("cluster-reset", REFUSED, _configuration("--cluster-reset=maybe"), ("cluster-reset",), "not-a-bool"),
    *_anywhere("cluster-init", "cluster-init", "K3S_CLUSTER_INIT", "true"),
    *_for_both(
        "cluster-init", REFUSED, _configuration("--cluster-init=false"), ("Switched off", "stronger"), "off-on-line"
    ),
    *_for_both(
        "cluster-init",
        REFUSED,
        _configuration(yaml={f"{CONFIG}.d/zzz.yaml": "cluster-init: false\n"}),
        ("Switched off", "zzz.yaml"),
        "off-in-later-drop-in",
    ),
    *(
        _migrate("disabled-components", REFUSED, _configuration(f"--{flag}"), (flag, "command line"), flag)
        for flag in ("disable-etcd", "disable-apiserver", "disable-controller-manager", "disable-agent")
    ),
    *_for_both(
        "pending-changes",
        WARNED,
        _files(changed_at={Path(CONFIG): 1_800_000_500.0}),
        (CONFIG, "systemctl restart k3s.service"),
        "newer-config",
    ),
    *_for_both("pending-changes", WARNED, _with(unit=unit(need_daemon_reload=True)), ("daemon-reload",), "reload"),
    # --- versions
    _migrate(
        "version",
        REFUSED,
        _both(_with(version=Version.parse("v1.22.1+k3s1")), _with(running_version="v1.22.1+k3s1")),
        ("v1.22.1", "upgrade"),
        "old",
    ),
    *(
        _migrate("version", REFUSED, _both(_with(version=Version.parse(v)), _with(running_version=v)), (v, "12478"), v)
        for v in ("v1.30.13+k3s1", "v1.31.9+k3s1", "v1.32.5+k3s1", "v1.33.1+k3s1")
    ),
    _migrate(
        "running-version", REFUSED, _with(running_version="v1.21.5+k3s2"), ("v1.21.5+k3s2", "restart"), "replaced"
    ),
    _rollback(
        "same-version",
        REFUSED,
        _with(version=Version.parse("v1.23.1+k3s1")),
        ("v1.23.1+k3s1", "Install k3s"),
        "upgraded",
    ),
    # --- the files
    _migrate(
        "datastore",
        REFUSED,
        _files(datastore=Datastore.ETCD, datastore_detail="member/wal exists.", migrated=True),
        ("on etcd already",),
        "etcd",
    ),
    _migrate(
        "datastore",
        REFUSED,
        _files(datastore=Datastore.HALF_COPIED, datastore_detail="A copy began and did not end."),
        ("did not end", "systemctl stop k3s.service", "mv /var/lib/rancher/k3s/server/db/etcd"),
        "half-copied",
    ),
    _migrate("datastore", REFUSED, _files(datastore=Datastore.NONE), ("data-dir",), "none"),
    _rollback("etcd-in-use", REFUSED, _files(datastore=Datastore.SQLITE), ("k3s on etcd",), "sqlite"),
    _rollback("etcd-in-use", REFUSED, _files(datastore=Datastore.HALF_COPIED), ("no state.db",), "both"),
    _migrate("leftovers", REFUSED, _files(leftovers=(Path("/d/tmp-etcd"),)), ("/d/tmp-etcd", "mv"), "tmp-etcd"),
    _migrate("stale-migrated", REFUSED, _files(migrated=True), ("state.db.migrated", "mv"), "there"),
    *_for_both("tombstone", REFUSED, _files(tombstone=True), ("tombstone", "mv"), "there"),
    *_for_both(
        "credentials", REFUSED, _files(credentials_missing=("cred/passwd",)), ("cred/passwd", "restart"), "passwd"
    ),
    *_for_both("links", REFUSED, _files(surprises=("state.db is a symbolic link to /x.",)), ("symbolic",), "link"),
    *_for_both("same-mount", REFUSED, _files(quarantine_mount=26), ("EXDEV", "findmnt"), "other-mount"),
    *_for_both("writable", REFUSED, _files(unwritable=(Path("/etc/rancher"),)), ("/etc/rancher", "findmnt"), "ro"),
    _migrate("config-drop-in", REFUSED, _files(config_drop_in=True), ("zz-k3s-ha-agent.yaml", "rm "), "there"),
    *_for_both("gate", REFUSED, _files(gate=True), ("zz-k3s-ha-agent-gate.conf", "daemon-reload"), "closed"),
    *_for_both("gate", REFUSED, _with(rescue_armed=True), ("timer", "systemctl stop"), "rescue"),
    *_for_both("unfinished-operation", REFUSED, _with(unfinished="op-1"), ("op-1", "watch op-1"), "unfinished"),
    # --- the database
    _migrate(
        "sqlite", REFUSED, _with(kine=Missing("It is malformed.", "sqlite", "mend")), ("malformed", "mend"), "bad"
    ),
    _migrate("live-rows", REFUSED, _kine(live_rows=0, live_bytes=0), ("no live key", "get namespaces"), "none"),
    _migrate(
        "request-size",
        REFUSED,
        _kine(biggest_key="/registry/configmaps/default/big", biggest_bytes=1536 * 1024 - 4096 + 1),
        ("/registry/configmaps/default/big", "max-request-bytes=2097152"),
        "over",
    ),
    _migrate(
        "request-size",
        REFUSED,
        _both(
            _configuration("--etcd-arg=max-request-bytes=8388608"),
            _kine(biggest_key="/registry/x", biggest_bytes=2 * MIB - 4096 + 1),
        ),
        ("/registry/x", "Delete or split"),
        "over-what-the-client-sends",
    ),
    _migrate(
        "request-size", REFUSED, _configuration("--etcd-arg=max-request-bytes=2M"), ("2M", "not a number"), "nonsense"
    ),
    _migrate(
        "quota",
        REFUSED,
        _both(_kine(live_rows=100_000, live_bytes=GIB), _with(memory=Memory(8 * GIB, 8 * GIB))),
        ("2.0 GiB", "quota-backend-bytes=8589934592"),
        "near",
    ),
    _migrate("quota", REFUSED, _configuration("--etcd-arg=quota-backend-bytes=1000000"), ("976.6 KiB",), "configured"),
    _migrate("quota", REFUSED, _configuration("--etcd-arg=quota-backend-bytes=big"), ("not a number",), "nonsense"),
    _migrate("database-size", WARNED, _files(sqlite_bytes=2 * GIB), ("2.0 GiB", "VACUUM"), "uncompacted"),
    _migrate("bootstrap-key", REFUSED, _token(short_hash="0" * 12), ("000000000000", "d39c08e28906"), "other"),
    _migrate("bootstrap-key", REFUSED, _configured_token("e3b0c44298fc"), (CONFIG, "e3b0c44298fc"), "configured"),
    _migrate(
        "bootstrap-key",
        REFUSED,
        _kine(bootstrap_keys=("/bootstrap/d39c08e28906", "/bootstrap/000000000000")),
        ("d39c08e28906 and 000000000000",),
        "two",
    ),
    _migrate("bootstrap-key", WARNED, _kine(bootstrap_keys=()), ("no /bootstrap/ key",), "none"),
    # --- the token
    *_for_both("token", REFUSED, _with(server_token=Missing("It cannot be read.", "token")), ("cannot be read",), "no"),
    *_for_both(
        "token", REFUSED, _token(ca_hash=other_hash("other")), ("CA hash", other_hash("other")[:12]), "other-ca"
    ),
    *_for_both(
        "token", REFUSED, _configured_token("d39c08e28906", other_hash("x")), (CONFIG, "CA hash"), "configured-other-ca"
    ),
    # --- the machine
    _migrate("disk", REFUSED, _small("state", 20 * MIB), ("/var/lib/k3s-ha-agent", "pre-image", "df -h"), "state"),
    _migrate("disk", REFUSED, _small("db", 200 * MIB), ("server/db", "etcd and its temporary copy"), "db"),
    _migrate("disk", REFUSED, _small("systemd", 1000), ("k3s.service.d", "the gate"), "systemd"),
    _migrate("disk", REFUSED, _small("config", 1000), ("config.yaml.d",), "config"),
    _rollback("disk-rollback", REFUSED, _small("db", 4 * MIB), ("server/db", "the pre-image put back"), "db"),
    _migrate("memory", REFUSED, _with(memory=Memory(GIB, MIB)), ("1.0 MiB", "3 times"), "little"),
    *(
        _migrate(
            "ports",
            REFUSED,
            _with(listeners={port: [Listener(12, "etcd", "127.0.0.1")]}),
            (f"{port} by etcd (process 12)", "ss -ltnp"),
            str(port),
        )
        for port in (2379, 2380, 2381, 2382, 2399, 2400)
    ),
    _migrate("slow-disk", REFUSED, _slow(0.101), ("101ms", "--accept-slow-disk"), "too-slow"),
    _migrate("slow-disk", WARNED, _slow(0.011), ("11ms",), "slow"),
    _migrate("slow-disk", WARNED, _both(_slow(3.0), _with(accept_slow_disk=True)), ("3s",), "accepted"),
    _migrate(
        "slow-disk",
        WARNED,
        _both(_with(fsync=Missing("fsync could not be measured.", "slow-disk")), _with(accept_slow_disk=True)),
        ("could not be measured",),
        "unmeasured-accepted",
    ),
    _migrate("clock", WARNED, _with(clock_synchronised=False), ("timedatectl set-ntp true",), "unsynchronised"),
    _migrate("clock", WARNED, _with(clock_synchronised=Missing("Nobody says.")), ("Nobody says.",), "unknown"),
    _migrate("clock", WARNED, _files(credentials_in_future=("cred/passwd",)), ("cred/passwd",), "future"),
    # --- addresses
    _migrate("node-address", REFUSED, _plain("--node-ip=10.99.0.12"), ("10.99.0.12", "10.99.0.11"), "other-pin"),
    _migrate("node-address", REFUSED, _addresses(local=("127.0.0.1",)), ("10.99.0.11", "ip -brief"), "gone"),
    _migrate(
        "node-address",
        WARNED,
        _both(_unpinned, _addresses(default="10.0.2.15")),
        ("10.0.2.15", "node-ip: 10.99.0.11"),
        "route",
    ),
    _migrate(
        "dynamic-address",
        WARNED,
        _both(_unpinned, _addresses(dynamic=("10.99.0.11",))),
        ("limited lifetime", "node-ip: 10.99.0.11"),
        "dhcp",
    ),
    _migrate(
        "dual-stack",
        WARNED,
        _plain("--cluster-cidr=10.42.0.0/16,2001:db8::/56"),
        ("not set", "node-ip"),
        "unpinned",
    ),
    _migrate(
        "secrets-encryption",
        WARNED,
        _files(encryption=True, encryption_stage="rotate"),
        ("rotate", "k3s secrets-encrypt status"),
        "rotating",
    ),
    _migrate("node", REFUSED, _with(api_ready=Readiness(False, "HTTP 500: etcd")), ("HTTP 500: etcd", "readyz"), "api"),
    _migrate("node", REFUSED, _node(ready=False), ("not Ready", "describe node n1"), "not-ready"),
    # --- the way back
    _rollback(
        "pre-image", REFUSED, _with(pre_image=Missing("There is none.", "pre-image")), ("There is none",), "none"
    ),
    _rollback(
        "pre-image",
        REFUSED,
        _with(pre_image=PreImage("op", Path("/b/op"), "v1.22.2-rc2+k3s1", 5, "sealed.db is not what it says.")),
        ("/b/op", "sealed.db"),
        "damaged",
    ),
    _rollback("sole-member", REFUSED, _two_members, ("2 members", "n2-12345678"), "two"),
]
