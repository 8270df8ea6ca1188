"""Each check refuses or warns for its reason, and no other check does for that reason."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from k3s_ha_agent.host.resources import Disk, FsyncProbe, Memory
from k3s_ha_agent.k3s.apiserver import Node
from k3s_ha_agent.k3s.configuration import effective
from k3s_ha_agent.k3s.kine import KineSummary
from k3s_ha_agent.k3s.version import Version
from k3s_ha_agent.model import CheckStatus, Kind
from k3s_ha_agent.preflight import sizes
from k3s_ha_agent.preflight.ports import needed
from k3s_ha_agent.preflight.results import Missing
from k3s_ha_agent.preflight.run import registry, run
from k3s_ha_agent.preflight.subject import Addresses, Place, Places, Subject
from tests.unit.preflight.cases import CASES
from tests.unit.preflight.cases_join import JOIN_CASES
from tests.unit.preflight.changes import Case
from tests.unit.preflight.joining import may_join
from tests.unit.preflight.subjects import CONFIG, GIB, configuration, files, good

ALWAYS = {Kind.MIGRATE: {}, Kind.ROLLBACK: {}, Kind.JOIN: {"reverse-ports": CheckStatus.WARNED}}
"""What objects whatever is found: that it cannot be found."""


NOT_SAID = {("unit", Kind.JOIN, CheckStatus.WARNED)}
"""A unit that does not run has not been restarted."""


def good_for(kind: Kind, summary: KineSummary) -> Subject:
    return may_join(summary) if kind is Kind.JOIN else good(kind, summary)


@pytest.mark.parametrize("kind", list(Kind))
async def test_a_good_server_passes_every_check(kind: Kind, summary: KineSummary) -> None:
    results = await run(kind, good_for(kind, summary))
    objections = [r for r in results if r.status is not CheckStatus.OK]
    assert {r.name: r.status for r in objections} == ALWAYS[kind], objections
    assert all(r.found.endswith(".") for r in results), [r.found for r in results]


@pytest.mark.parametrize("case", [*CASES, *JOIN_CASES], ids=lambda case: case.label)
async def test_only_that_check_objects(case: Case, summary: KineSummary) -> None:
    results = await run(case.kind, case.change(good_for(case.kind, summary)))
    objections = {r.name: r.status for r in results if r.status is not CheckStatus.OK}
    assert objections == {**ALWAYS[case.kind], case.check: case.status}, results
    (result,) = (r for r in results if r.name == case.check)
    said = f"{result.found} {result.needs} {result.remedy}"
    for word in case.words:
        assert word in said
    assert result.found and result.needs and result.remedy
    for harmless in ("k3s secrets-encrypt", "secrets-encryption", "secretbox", "Secrets", "delete secret"):
        said = said.replace(harmless, "")
    assert "secret" not in said


def test_every_check_has_a_case_for_all_it_can_say() -> None:
    said = {(case.check, case.kind, case.status) for case in [*CASES, *JOIN_CASES]}
    said.add(("reverse-ports", Kind.JOIN, CheckStatus.WARNED))
    for check in registry():
        for kind in check.kinds:
            for status, text in (
                (CheckStatus.REFUSED, check.about.refuses),
                (CheckStatus.WARNED, check.about.warns),
            ):
                expected = bool(text) and (check.name, kind, status) not in NOT_SAID
                assert ((check.name, kind, status) in said) == expected, (check.name, kind, status)


def test_every_check_says_what_to_do_and_why() -> None:
    for check in registry():
        assert check.about.looks_at and check.about.remedy and check.about.facts, check.name
        assert check.kinds, check.name


@pytest.mark.parametrize(
    ("flags", "name"),
    [
        (["--etcd-arg=quota-backend-bytes=-1"], "quota"),
        (["--etcd-arg=quota-backend-bytes=0"], "quota"),
        (["--etcd-arg=quota-backend-bytes=5", "--etcd-arg=quota-backend-bytes=8589934592"], "quota"),
        (["--etcd-arg=max-request-bytes=2097152"], "request-size"),
    ],
)
async def test_etcd_arguments_are_honoured(flags: list[str], name: str, summary: KineSummary) -> None:
    big = dataclasses.replace(summary, biggest_bytes=1_700_000) if name == "request-size" else summary
    changed = dataclasses.replace(good(Kind.MIGRATE, big), configuration=configuration(*flags))
    results = await run(Kind.MIGRATE, changed)
    assert next(r.status for r in results if r.name == name) is CheckStatus.OK


async def test_etcd_arguments_that_a_drop_in_replaces_do_not_count(summary: KineSummary) -> None:
    large = dataclasses.replace(summary, live_rows=100_000, live_bytes=GIB)
    yaml = {
        CONFIG: "etcd-arg: [quota-backend-bytes=8589934592]\n",
        f"{CONFIG}.d/a.yaml": "etcd-arg: [heartbeat-interval=500]\n",
    }
    subject = dataclasses.replace(good(Kind.MIGRATE, large), configuration=configuration(yaml=yaml))
    results = await run(Kind.MIGRATE, subject)
    assert next(r.status for r in results if r.name == "quota") is CheckStatus.REFUSED
    yaml[f"{CONFIG}.d/a.yaml"] = "etcd-arg+: [heartbeat-interval=500]\n"
    results = await run(Kind.MIGRATE, dataclasses.replace(subject, configuration=configuration(yaml=yaml)))
    assert next(r.status for r in results if r.name == "quota") is CheckStatus.OK


async def test_an_ipv6_address_is_the_same_however_it_is_written(summary: KineSummary) -> None:
    subject = good(Kind.MIGRATE, summary)
    assert isinstance(subject.node, Node)
    subject = dataclasses.replace(
        subject,
        configuration=effective(["/usr/local/bin/k3s", "server", "--node-ip", "2001:DB8:0:0::11"], [], []),
        addresses=Addresses(("2001:db8::11",), (), None),
        node=dataclasses.replace(subject.node, internal_ip="2001:db8::11"),
    )
    results = await run(Kind.MIGRATE, subject)
    assert [r.name for r in results if r.status is CheckStatus.REFUSED] == []


@pytest.mark.parametrize("said", ["node-ip: eth0", "cluster-cidr: 10.42.0.0/99", "service-cidr: [10.43.0.0/16, x]"])
async def test_what_is_no_address_is_refused_and_no_bug(said: str, summary: KineSummary) -> None:
    subject = dataclasses.replace(good(Kind.MIGRATE, summary), configuration=effective(
        ["/usr/local/bin/k3s", "server"], [], [(CONFIG, said + "\n")]
    ))  # fmt: skip
    results = await run(Kind.MIGRATE, subject)
    assert "dual-stack" in {r.name for r in results if r.status is CheckStatus.REFUSED}


async def test_a_larger_quota_lets_larger_data_pass(summary: KineSummary) -> None:
    large = dataclasses.replace(summary, live_rows=100_000, live_bytes=GIB)
    subject = dataclasses.replace(
        good(Kind.MIGRATE, large), configuration=configuration("--etcd-arg=quota-backend-bytes=8589934592")
    )
    results = await run(Kind.MIGRATE, subject)
    assert next(r.status for r in results if r.name == "quota") is CheckStatus.OK


@pytest.mark.parametrize(
    "yaml",
    [
        {CONFIG: "cluster-init: false\n"},
        {f"{CONFIG}.d/a.yaml": "cluster-init: false\n"},
        {CONFIG: "cluster-reset: false\nserver: ''\ndatastore-endpoint: ''\n"},
    ],
)
async def test_what_is_switched_off_or_empty_does_no_harm(yaml: dict[str, str], summary: KineSummary) -> None:
    subject = dataclasses.replace(good(Kind.MIGRATE, summary), configuration=configuration(yaml=yaml))
    results = await run(Kind.MIGRATE, subject)
    assert {r.name for r in results if r.status is not CheckStatus.OK} == set()


async def test_an_overridden_external_datastore_is_refused_too(summary: KineSummary) -> None:
    yaml = {CONFIG: "datastore-endpoint: mysql://x\n", f"{CONFIG}.d/b.yaml": "datastore-endpoint: ''\n"}
    subject = dataclasses.replace(good(Kind.MIGRATE, summary), configuration=configuration(yaml=yaml))
    results = await run(Kind.MIGRATE, subject)
    assert [r.name for r in results if r.status is CheckStatus.REFUSED] == ["external-datastore"]


@pytest.mark.parametrize(
    ("node_ip", "status"),
    [("10.99.0.11,2001:db8::11", CheckStatus.OK), ("2001:db8::11,10.99.0.11", CheckStatus.WARNED)],
)
async def test_dual_stack_wants_ipv4_first(node_ip: str, status: CheckStatus, summary: KineSummary) -> None:
    argv = ["/usr/local/bin/k3s", "server", "--node-ip", node_ip]
    subject = dataclasses.replace(
        good(Kind.MIGRATE, summary),
        configuration=effective(argv, [], []),
        addresses=Addresses(("10.99.0.11", "2001:db8::11"), (), None),
    )
    results = await run(Kind.MIGRATE, subject)
    assert next(r.status for r in results if r.name == "dual-stack") is status


async def test_encrypted_secrets_at_rest_pass(summary: KineSummary) -> None:
    for stage in (None, "start", "reencrypt_finished"):
        subject = files(good(Kind.MIGRATE, summary), encryption=True, encryption_stage=stage)
        results = await run(Kind.MIGRATE, subject)
        assert next(r.status for r in results if r.name == "secrets-encryption") is CheckStatus.OK


@pytest.mark.parametrize(
    ("version", "temporary"),
    [
        ("v1.22.2+k3s1", True),
        ("v1.34.3+k3s1", True),
        ("v1.34.3+k3s3", False),
        ("v1.34.4+k3s1", False),
        ("v1.35.0+k3s1", True),
        ("v1.35.1+k3s1", False),
        ("v1.33.9+k3s1", True),
    ],
)
def test_ports_of_the_temporary_etcd_by_version(version: str, temporary: bool) -> None:
    assert (2399 in needed(Version.parse(version))) == temporary


def _exactly(subject: Subject, name: str, summary: KineSummary, more: int) -> Subject:
    """The subject at the limit of a check, or ``more`` beyond it."""
    disk = Disk(total=100 * GIB, free=50 * GIB, device=1)
    match name:
        case "request-size":
            return dataclasses.replace(
                subject, kine=dataclasses.replace(summary, biggest_bytes=1536 * 1024 - 4096 + more)
            )
        case "quota":
            limit = sizes.backend(summary.live_bytes, summary.live_rows) - more
            return dataclasses.replace(subject, configuration=configuration(f"--etcd-arg=quota-backend-bytes={limit}"))
        case "memory":
            return dataclasses.replace(subject, memory=Memory(4 * GIB, 3 * summary.live_bytes - more))
        case "slow-disk":
            return dataclasses.replace(subject, fsync=FsyncProbe(100, 0.001, 0.010 + more, 1.0))
        case "pending-changes":
            return files(subject, changed_at={Path("/x"): 1_800_000_000.0 + more})
        case _:
            assert name == "disk" and not isinstance(subject.files, Missing)
            live, rows, copy = summary.live_bytes, summary.live_rows, subject.files.sqlite_bytes
            wanted = 3 * copy + sizes.SMALL_FILES + 2 * sizes.CONFIG_FILES
            wanted += 2 * sizes.etcd(live, rows) + sizes.backend(live, rows)
            here = dataclasses.replace(disk, free=wanted - more)
            place = Place(Path("/one"), here)
            return dataclasses.replace(subject, places=Places(place, place, place, place))


@pytest.mark.parametrize("name", ["request-size", "quota", "memory", "slow-disk", "pending-changes", "disk"])
async def test_the_limit_itself_is_allowed_and_one_beyond_it_is_not(name: str, summary: KineSummary) -> None:
    """For the disk: all that is needed on one file system is added up."""
    for more, allowed in ((0, True), (1, False)):
        results = await run(Kind.MIGRATE, _exactly(good(Kind.MIGRATE, summary), name, summary, more))
        assert (next(r.status for r in results if r.name == name) is CheckStatus.OK) == allowed, more


async def test_a_quota_of_zero_is_the_default_and_not_none(summary: KineSummary) -> None:
    large = dataclasses.replace(summary, live_rows=1000, live_bytes=2 * GIB)
    for value, status in ((0, CheckStatus.REFUSED), (-1, CheckStatus.OK)):
        subject = dataclasses.replace(
            good(Kind.MIGRATE, large), configuration=configuration(f"--etcd-arg=quota-backend-bytes={value}")
        )
        results = await run(Kind.MIGRATE, subject)
        assert next(r.status for r in results if r.name == "quota") is status


async def test_a_refusing_disk_is_accepted_only_on_request(summary: KineSummary) -> None:
    at_the_limit = dataclasses.replace(good(Kind.MIGRATE, summary), fsync=FsyncProbe(100, 0.1, 0.100, 0.1))
    results = await run(Kind.MIGRATE, at_the_limit)
    assert next(r.status for r in results if r.name == "slow-disk") is CheckStatus.WARNED
