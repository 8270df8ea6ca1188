"""What is not known is not passed."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from k3s_ha_agent.k3s.kine import KineSummary
from k3s_ha_agent.k3s.layout import Layout
from k3s_ha_agent.model import CheckStatus, Datastore, Kind
from k3s_ha_agent.preflight.cluster import ClusterFacts
from k3s_ha_agent.preflight.results import Missing, known
from k3s_ha_agent.preflight.run import refused, registry, run
from k3s_ha_agent.preflight.sources import ask_members
from tests.unit.preflight.joining import may_join
from tests.unit.preflight.subjects import files, good


async def test_a_missing_fact_refuses_every_check_that_needs_it(summary: KineSummary) -> None:
    subject = dataclasses.replace(good(Kind.MIGRATE, summary), memory=Missing("Nobody says."))
    results = {r.name: r for r in await run(Kind.MIGRATE, subject) if r.status is not CheckStatus.OK}
    assert set(results) == {"memory"}
    assert results["memory"].found == "Nobody says." and results["memory"].remedy


async def test_no_join_passes_without_its_facts(summary: KineSummary) -> None:
    """What is not known of the cluster or of this server, one fact after the other."""
    subject = may_join(summary)
    ignored = set()
    for name in ("cluster", "joiner"):
        facts = getattr(subject, name)
        found = [dataclasses.replace(subject, **{name: Missing("Nobody says.")})]
        unknown = [field.name for field in dataclasses.fields(facts) if "Missing" in str(field.type)]
        found += [
            dataclasses.replace(subject, **{name: dataclasses.replace(facts, **{each: Missing("Nobody says.")})})
            for each in unknown
        ]
        for label, changed in zip([name, *unknown], found, strict=True):
            if not refused(await run(Kind.JOIN, changed)):
                ignored.add(label)
    assert ignored == {"etcd"}, "its alarms are only warned of: later releases show them to nobody outside"
    for name in ("unit", "configuration", "version", "files", "places", "listeners", "fsync", "addresses"):
        changed = dataclasses.replace(subject, **{name: Missing("Nobody says.")})
        assert refused(await run(Kind.JOIN, changed)), name


async def test_a_silent_target_is_refused_once(summary: KineSummary) -> None:
    subject = may_join(summary)
    assert isinstance(subject.cluster, ClusterFacts)
    gone = Missing("No answer.", "target-answers")
    silent = {f.name: gone for f in dataclasses.fields(ClusterFacts) if "Missing" in str(f.type)}
    silent.pop("host_addresses")
    changed = dataclasses.replace(subject, cluster=dataclasses.replace(subject.cluster, **silent))
    results = {r.name: r for r in await run(Kind.JOIN, changed)}
    assert [r.name for r in refused(results.values())] == ["target-answers"]
    assert results["critical-flags"].found == "Not looked at: see the check target-answers."


@pytest.mark.parametrize("kind", [Kind.MIGRATE, Kind.ROLLBACK])
async def test_no_check_passes_without_its_facts(kind: Kind, summary: KineSummary) -> None:
    """Every fact that is looked at, missing by itself, makes something object."""
    subject = good(kind, summary)
    ignored = set()
    for field in dataclasses.fields(subject):
        if isinstance(getattr(subject, field.name), Missing) or "Missing" not in str(field.type):
            continue
        unknown: dict[str, Any] = {field.name: Missing("Nobody says.")}
        results = await run(kind, dataclasses.replace(subject, **unknown))
        if all(r.status is CheckStatus.OK for r in results):
            ignored.add(field.name)
    not_for_a_rollback = {"running_version", "listeners", "fsync", "addresses", "clock_synchronised", "memory"}
    not_for_a_rollback |= {"node", "api_ready"}
    assert ignored == ({"members", "pre_image"} if kind is Kind.MIGRATE else not_for_a_rollback)


async def test_what_another_check_refuses_is_passed_over(summary: KineSummary) -> None:
    subject = files(good(Kind.MIGRATE, summary), datastore=Datastore.ETCD, datastore_detail="On etcd.")
    subject = dataclasses.replace(subject, kine=Missing("On etcd.", "datastore"))
    results = {r.name: r for r in await run(Kind.MIGRATE, subject)}
    assert [r.name for r in refused(results.values())] == ["datastore"]
    assert results["sqlite"].found == results["quota"].found == "Not looked at: see the check datastore."


async def test_of_a_stopped_k3s_the_way_back_names_the_unit_alone(summary: KineSummary, tmp_path: Path) -> None:
    """Its etcd does not answer because k3s does not run: that, and what to do about it, is what is told."""
    subject = good(Kind.ROLLBACK, summary)
    members = await ask_members(Layout(tmp_path))
    silent = dataclasses.replace(subject, members=members)
    (alone,) = refused(await run(Kind.ROLLBACK, silent))
    assert alone.name == "sole-member" and "what k3s says of its etcd" in alone.remedy, "k3s runs, so this is why"

    stopped = dataclasses.replace(silent, unit=dataclasses.replace(known(subject.unit), active_state="failed"))
    results = await run(Kind.ROLLBACK, stopped)
    (unit,) = refused(results)
    assert unit.name == "unit" and "an-etcd-that-does-not-come-up-any-more" in unit.remedy
    assert "Not looked at: see the check unit." in {r.found for r in results if r.name == "sole-member"}


async def test_passing_over_needs_the_other_check_to_have_refused(summary: KineSummary) -> None:
    """The datastore is SQLite, so there is no excuse for not having read it."""
    subject = dataclasses.replace(good(Kind.MIGRATE, summary), kine=Missing("Unread.", "datastore"))
    results = refused(await run(Kind.MIGRATE, subject))
    assert {"sqlite", "live-rows", "quota", "memory", "disk", "bootstrap-key"} <= {r.name for r in results}


async def test_a_warning_is_no_excuse_either(summary: KineSummary) -> None:
    subject = dataclasses.replace(good(Kind.MIGRATE, summary), clock_synchronised=False, kine=Missing("No.", "clock"))
    assert "sqlite" in {r.name for r in refused(await run(Kind.MIGRATE, subject))}


async def test_no_room_for_the_copy_is_refused_by_disk_alone(summary: KineSummary) -> None:
    subject = files(good(Kind.MIGRATE, summary), sqlite_bytes=1 << 50)
    subject = dataclasses.replace(subject, kine=Missing("No room.", "disk"))
    assert [r.name for r in refused(await run(Kind.MIGRATE, subject))] == ["disk"]


async def test_a_subject_of_another_kind_is_not_checked(summary: KineSummary) -> None:
    with pytest.raises(ValueError, match="gathered for migrate"):
        await run(Kind.ROLLBACK, good(Kind.MIGRATE, summary))


def test_the_registry_is_in_order_and_complete() -> None:
    names = [check.name for check in registry()]
    assert names == sorted(set(names)) and len(names) >= 40
