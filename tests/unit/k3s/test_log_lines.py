"""The recorded journals, line by line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from k3s_ha_agent.k3s import kine
from k3s_ha_agent.k3s.log_lines import BAD_SIGNS, BadSign, LogSign, Migrating, Milestone, classify
from tests.unit.k3s.conftest import RECORDINGS


def signs(name: str) -> Iterator[tuple[int, LogSign]]:
    lines = (RECORDINGS / name).read_text(encoding="utf-8", errors="replace").splitlines()
    for number, line in enumerate(lines, 1):
        sign = classify(line)
        # The same with the message alone, as journald gives it.
        message = re.sub(r"^\S+ \S+ \S+?\[\d+\]: ", "", line)
        assert classify(message) == sign, line
        if sign is not None:
            yield number, sign


def bad(name: str) -> list[tuple[int, str]]:
    return [(number, sign.name) for number, sign in signs(name) if isinstance(sign, BadSign)]


def test_migration(recorded_db: Path) -> None:
    """One line for each live row, in their order; the milestones in theirs; nothing bad."""
    found = [sign for _, sign in signs("k3s-1.22.2/journal-migrate.log")]
    migrated = [sign.key for sign in found if isinstance(sign, Migrating)]
    live = [row.key.decode() for row in kine.live_rows(recorded_db)]
    assert len(live) == 340
    assert sorted(migrated) == live
    milestones = list(dict.fromkeys(sign.name for sign in found if isinstance(sign, Milestone)))
    assert milestones == [
        "etcd-initializing",
        "copy-started",
        "etcd-serving",
        "etcd-ready",
        "apiserver-running",
        "k3s-running",
    ]
    assert bad("k3s-1.22.2/journal-migrate.log") == []
    assert isinstance(found[1], Milestone)
    assert found[1].name == "copy-started"


@pytest.mark.parametrize("name", ["journal-rollback.log", "journal-join-ok.log", "journal-join-other-cluster-cidr.log"])
def test_good_starts_have_no_bad_sign(name: str) -> None:
    assert bad(f"k3s-1.22.2/{name}") == []


def test_interrupted_copy_of_1_22_2() -> None:
    """Killed in the copy, started again, half the data: only the skipped copy and the restart tell."""
    found = bad("k3s-1.22.2/journal-interrupted.log")
    assert found == [(403, "exited"), (406, "restarted"), (414, "copy-skipped")]
    skipped = next(
        s for _, s in signs("k3s-1.22.2/journal-interrupted.log") if getattr(s, "name", "") == "copy-skipped"
    )
    assert isinstance(skipped, BadSign)
    assert skipped.only_when_migrating
    reached = [s.name for n, s in signs("k3s-1.22.2/journal-interrupted.log") if isinstance(s, Milestone) and n > 414]
    assert "k3s-running" in reached, "it looked like a success"


def test_interrupted_copy_of_1_22_4() -> None:
    assert bad("k3s-1.22.4/journal-interrupted.log") == [
        (345, "exited"),
        (348, "restarted"),
        (356, "copy-skipped"),
        (443, "token-not-readable"),
        (449, "exited"),
        (452, "restarted"),
        (460, "copy-skipped"),
        (524, "token-not-readable"),
        (525, "exited"),
        (528, "restarted"),
        (536, "copy-skipped"),
    ]


def test_failed_joins() -> None:
    assert bad("k3s-1.22.2/journal-join-badtoken.log") == [(6, "wrong-token"), (7, "exited")]
    assert bad("k3s-1.22.4/journal-join-mismatch.log") == [(7, "critical-mismatch"), (8, "exited")]


PREPARING = 'level=fatal msg="starting kubernetes: preparing server: '


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("start managed database: joining etcd cluster: etcdserver: too many learner members in cluster",
         "too-many-learners"),
        ("start managed database: etcd cluster join failed: etcdserver: too many learner members in cluster",
         "too-many-learners"),
        ("start managed database: joining etcd cluster: etcdserver: unhealthy cluster", "cluster-unhealthy"),
        ("start managed database: joining etcd cluster: duplicate node name found, please use a unique name for this "
         "node", "duplicate-node"),
        ("start managed database: etcd cluster join failed: context deadline exceeded", "join-timed-out"),
        ("start managed database: joining etcd cluster: context deadline exceeded", "join-timed-out"),
        ("start managed database: joining etcd cluster: dial tcp 10.99.0.11:2379: connect: no route to host",
         "peers-unreachable"),
        ("start managed database: etcd cluster join failed: something new", "join-failed"),
        ("start managed database: joining etcd cluster: something new", "join-failed"),
        ("token CA hash does not match the Cluster CA certificate hash: 1 != 2", "other-cluster"),
        ("https://10.99.0.11:6443/v1-k3s/server-bootstrap: 401 Unauthorized", "wrong-token"),
        ("https://10.99.0.11:6443/v1-k3s/server-bootstrap: 403 Forbidden", "wrong-token"),
        ("https://10.99.0.11:6443/v1-k3s/server-bootstrap: 400 Bad Request", "target-on-sqlite"),
        ('failed to get CA certs: Get "https://lb:6443/cacerts": x509: certificate is valid for n1, not lb',
         "certificate-name"),
        ('failed to get CA certs: Get "https://n1:6443/cacerts": EOF', "target-unreachable"),
        ("failed to validate server configuration: critical configuration value mismatch between servers",
         "critical-mismatch"),
    ],
)  # fmt: skip
def test_joins_that_fail(words: str, name: str) -> None:
    sign = classify(f'{PREPARING}{words}"')
    assert isinstance(sign, BadSign)
    assert sign.name == name
    assert sign.sentence and sign.remedy


def test_what_a_joining_server_waits_for_is_no_bad_sign() -> None:
    for words in ("etcdserver: too many learner members in cluster", "etcdserver: unhealthy cluster"):
        assert classify(f'level=info msg="Waiting to join etcd cluster: {words}"') is None
    assert classify('E1123 07:03:13 1 x.go:1] "probe failed" err="dial tcp 10.42.0.3:80: no route to host"') is None
    node = classify('level=fatal msg="Node password rejected, duplicate hostname or contents of …"')
    assert isinstance(node, BadSign) and node.name == "node-password"


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ('level=fatal msg="starting kubernetes: preparing server: failed to migrate content from sqlite to etcd: '
         'etcdserver: request is too large"', "value-too-big"),
        ('level=fatal msg="… failed to migrate content from sqlite to etcd: EOF"', "copy-failed"),
        ("etcdserver: mvcc: database space exceeded", "no-space"),
        ('level=fatal msg="… /var/lib/rancher/k3s/server/tls/server-ca.crt newer than datastore and could cause a '
         'cluster outage. Remove the file(s) from disk"', "files-newer-than-datastore"),
        ('level=fatal msg="no bootstrap data found in datastore"', "no-bootstrap-data"),
        ('level=fatal msg="bootstrap data already found and encrypted with different token"', "other-token"),
        ('level=info msg="Failed to test data store connection: this server is a not a member of the etcd cluster. '
         'Found [a], expect: b"', "not-a-member"),
        ('level=fatal msg="Managed etcd cluster membership was previously reset, please remove"', "cluster-reset-set"),
        ('level=fatal msg="listen tcp :6443: bind: address already in use"', "port-taken"),
        ('{"level":"fatal","ts":"x","msg":"failed to open WAL","error":"no space left on device"}', "disk-full"),
        ("F1123 07:03:13.577107   16593 server.go:1] bad", "fatal"),
        ("panic: runtime error: index out of range", "panic"),
        ('level=fatal msg="something new"', "fatal"),
    ],
)  # fmt: skip
def test_bad_signs_of_the_tables(line: str, name: str) -> None:
    sign = classify(line)
    assert isinstance(sign, BadSign)
    assert sign.name == name
    assert sign.sentence
    assert sign.remedy


@pytest.mark.parametrize(
    "line",
    [
        'E1123 07:03:13 1 remote_runtime.go:1] "PullImage failed" err="no space left on device"',
        "E1123 07:03:13 1 kuberuntime.go:1] listen tcp :80: bind: address already in use",
        'E1123 07:03:13 1 status.go:71] apiserver received an error: "etcdserver: request is too large"',
        'level=error msg="Failed to set sysctl: open /proc/sys: permission denied"',
        "Flag --insecure-port has been deprecated",
        "",
    ],
)
def test_other_peoples_troubles_are_no_bad_sign(line: str) -> None:
    assert classify(line) is None


def test_later_releases() -> None:
    for line, name in (
        ('level=info msg="Connected to etcd v3.6.4 - datastore using 45056 of 45056 bytes"', "etcd-connected"),
        ('level=info msg="Connection to etcd is ready"', "etcd-ready"),
        ('level=info msg="Saving cluster bootstrap data to datastore"', "bootstrap-saved"),
        ('level=info msg="ETCD server is now running"', "etcd-running"),
        ('level=info msg="Starting etcd for new cluster, cluster-reset=false"', "etcd-starting"),
    ):
        assert classify(line) == Milestone(name)
    assert classify('level=info msg="Migrating etcd key /registry/pods/a/b"') == Migrating("/registry/pods/a/b")


def test_names_are_of_one_kind_each() -> None:
    by_name: dict[str, set[bool]] = {}
    for _, sign in BAD_SIGNS:
        by_name.setdefault(sign.name, set()).add(sign.only_when_migrating)
    assert all(len(kinds) == 1 for kinds in by_name.values())
