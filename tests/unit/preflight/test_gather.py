"""Finding out: real files, a real D-Bus, an API over TLS; nothing changed, nothing left."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import sqlite3
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from k3s_ha_agent.errors import InvalidBody
from k3s_ha_agent.host.resources import FsyncProbe, Memory
from k3s_ha_agent.host.units import Units
from k3s_ha_agent.k3s import kine
from k3s_ha_agent.model import CheckResult, CheckStatus, Datastore, Kind, Operation, Outcome, Phase
from k3s_ha_agent.preflight.gather import gather
from k3s_ha_agent.preflight.inspector import NodeInspector, facts_of
from k3s_ha_agent.preflight.results import Missing
from k3s_ha_agent.preflight.run import run
from k3s_ha_agent.preflight.subject import PreImage, Subject
from k3s_ha_agent.settings import Settings
from tests.dbus.harness import FakeSystemd
from tests.unit.preflight.server import Server, running_server, tree
from tests.unit.preflight.subjects import GIB, TOKEN, VERSION

Running = tuple[Server, Units, FakeSystemd]


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    async with running_server(tmp_path) as found:
        yield found


def on_a_good_machine(subject: Subject) -> Subject:
    """The facts of this test machine, which vary, as those of a good one; k3s's stay as gathered."""
    return dataclasses.replace(
        subject,
        fsync=FsyncProbe(100, 0.001, 0.002, 0.003),
        memory=Memory(4 * GIB, 2 * GIB),
        listeners={},
        clock_synchronised=True,
    )


async def objections(server: Server, units: Units, kind: Kind = Kind.MIGRATE) -> dict[str, CheckResult]:
    subject = on_a_good_machine(await gather(server.settings, units, kind))
    return {r.name: r for r in await run(kind, subject) if r.status is not CheckStatus.OK}


async def test_everything_is_found_out_and_nothing_objects(running: Running) -> None:
    server, units, _ = running
    subject = await gather(server.settings, units, Kind.MIGRATE)
    for field in dataclasses.fields(subject):
        # Of another kind; and there is no systemd-timedated on this bus.
        if field.name not in ("members", "pre_image", "clock_synchronised", "cluster", "joiner"):
            assert not isinstance(getattr(subject, field.name), Missing), getattr(subject, field.name)
    assert not isinstance(subject.kine, Missing)
    assert subject.kine.live_rows == 340, "the rows that are only in the WAL count"
    assert str(subject.version) == subject.running_version == VERSION
    assert not isinstance(subject.fsync, Missing) and subject.fsync.rounds > 0
    assert {r.name: r.found for r in await run(Kind.MIGRATE, on_a_good_machine(subject)) if r.status != "ok"} == {}
    assert facts_of(subject) == {
        "node_name": "n1",
        "api_port": int(server.config.read_text().split()[-1]),
        "k3s_version": VERSION,
        "live_rows": 340,
        "live_bytes": subject.kine.live_bytes,
        "fsync_p99": subject.fsync.p99,
    }


async def test_nothing_below_the_data_dir_changes_and_nothing_is_left(running: Running) -> None:
    server, units, _ = running
    before = tree(server.layout.data_dir), tree(server.config.parent), tree(server.settings.systemd_dir)
    await gather(server.settings, units, Kind.MIGRATE)
    assert (tree(server.layout.data_dir), tree(server.config.parent), tree(server.settings.systemd_dir)) == before
    assert [p.name for p in server.settings.state_dir.iterdir()] == ["preflight.lock"]


async def test_every_file_that_is_read_at_a_start_is_looked_at(running: Running) -> None:
    server, units, systemd = running
    drop_in = Path(f"{server.config}.d/a.yaml")
    drop_in.parent.mkdir()
    drop_in.write_text("")
    os.utime(drop_in, (time.time() + 1,) * 2)  # the clock of mtimes is some milliseconds coarse
    unit_drop_in = systemd.write_drop_in("k3s.service", "a.conf", "[Service]\nEnvironment=A=1\n")
    await units.daemon_reload()
    subject = await gather(server.settings, units, Kind.MIGRATE)
    assert not isinstance(subject.files, Missing)
    unit = systemd.units / "k3s.service"
    assert set(subject.files.changed_at) == {unit, unit_drop_in, server.env, server.config, drop_in}
    (warning,) = (await objections(server, units)).values()
    assert str(drop_in) in warning.found and str(server.env) not in warning.found


async def test_a_database_in_use_is_read_with_what_was_just_written(running: Running) -> None:
    server, units, _ = running
    writer = sqlite3.connect(server.layout.state_db, isolation_level=None)
    try:
        writer.execute("INSERT INTO kine (name, created, deleted, create_revision, prev_revision, lease, value)"
                       " VALUES ('/registry/configmaps/default/new', 1, 0, 0, 0, 0, x'00')")  # fmt: skip
        subject = await gather(server.settings, units, Kind.MIGRATE)
        assert not isinstance(subject.kine, Missing)
        assert subject.kine.live_rows == 341
    finally:
        writer.close()


async def test_no_secret_is_in_the_subject_or_the_results(running: Running) -> None:
    server, units, _ = running
    server.env.write_text(f"K3S_NODE_NAME=n1\nK3S_TOKEN={TOKEN.password}\n")
    subject = await gather(server.settings, units, Kind.MIGRATE)
    assert not isinstance(subject.configured_tokens, Missing) and len(subject.configured_tokens) == 1
    assert subject.configured_tokens[0].short_hash == TOKEN.short_hash
    # UnitState and Configuration hold the environment as k3s gets it; what checks say must not.
    results = await run(Kind.MIGRATE, subject)
    assert TOKEN.password not in repr(results)
    assert TOKEN.password not in repr((subject.configured_tokens, subject.server_token, subject.configuration))


async def test_another_token_in_the_environment_is_refused(running: Running) -> None:
    server, units, _ = running
    server.env.write_text("K3S_NODE_NAME=n1\nK3S_TOKEN=another-password\n")
    os.utime(server.env, (5, 5))
    found = await objections(server, units)
    assert found["bootstrap-key"].status is CheckStatus.REFUSED
    assert set(found) == {"bootstrap-key"}
    assert str(server.env) in found["bootstrap-key"].found and "another-password" not in repr(found)


async def test_a_token_file_that_is_not_there_is_refused(running: Running) -> None:
    server, units, _ = running
    server.configure(server.config.read_text() + "token-file: /nowhere/token\n")
    found = await objections(server, units)
    assert {n for n, r in found.items() if r.status is CheckStatus.REFUSED} == {"token"}
    assert "/nowhere/token" in found["token"].found


async def test_a_corrupt_database_is_refused_once(running: Running) -> None:
    server, units, _ = running
    kine.backup(server.layout.state_db, server.directory / "whole.db")
    data = bytearray((server.directory / "whole.db").read_bytes())
    data[8192:60_000] = b"\xa5" * (60_000 - 8192)
    for suffix in ("-wal", "-shm"):
        server.layout.db.joinpath(f"state.db{suffix}").unlink()
    server.layout.state_db.write_bytes(data)
    found = await objections(server, units)
    assert set(found) == {"sqlite"} and found["sqlite"].status is CheckStatus.REFUSED
    assert found["sqlite"].remedy
    assert [p.name for p in server.settings.state_dir.iterdir()] == ["preflight.lock"]


async def test_a_configuration_that_is_not_yaml_is_refused_once(running: Running) -> None:
    server, units, _ = running
    drop_in = Path(f"{server.config}.d/broken.yaml")
    drop_in.parent.mkdir()
    drop_in.write_text("a: [\n")
    results = await run(Kind.MIGRATE, on_a_good_machine(await gather(server.settings, units, Kind.MIGRATE)))
    refused = {r.name: r for r in results if r.status is CheckStatus.REFUSED}
    # Without the configuration the port of the API server is not known either.
    assert set(refused) <= {"configuration", "node"} and "configuration" in refused
    assert str(drop_in) in refused["configuration"].found


async def test_half_copied_is_refused_and_the_database_is_not_read(running: Running) -> None:
    server, units, _ = running
    server.layout.etcd_member_wal.mkdir(parents=True)
    found = await objections(server, units)
    assert set(found) == {"datastore"}
    subject = await gather(server.settings, units, Kind.MIGRATE)
    assert isinstance(subject.kine, Missing) and subject.kine.see == "datastore"


async def test_a_replaced_binary_is_refused(running: Running) -> None:
    server, units, _ = running
    server.write_binary("v1.23.1+k3s1")
    assert set(await objections(server, units)) == {"running-version"}


async def test_a_unit_that_loops_is_refused(running: Running) -> None:
    server, units, systemd = running
    systemd.write_unit("k3s.service", server.unit_text().replace(" server ", " --version server "))
    await units.daemon_reload()
    await (await units.stop_unit("k3s.service")).wait(60)
    job = await units.start_unit("k3s.service")
    await job.wait(60)
    while (await units.state("k3s.service")).sub_state == "running":
        await asyncio.sleep(0.05)
    found = await objections(server, units)
    assert found["unit"].status is CheckStatus.REFUSED and "auto-restart" in found["unit"].found


async def test_a_unit_that_is_not_there_is_refused_and_the_rest_follows_it(running: Running) -> None:
    server, units, _ = running
    settings = dataclasses.replace(server.settings, unit="k3s-other.service")
    results = await run(Kind.MIGRATE, on_a_good_machine(await gather(settings, units, Kind.MIGRATE)))
    refused = {r.name for r in results if r.status is CheckStatus.REFUSED}
    assert "unit" in refused
    assert refused <= {"unit", "node"}, "the port and the name come from the unit"
    assert any(r.found == "Not looked at: see the check unit." for r in results)


async def test_without_a_bus_everything_else_is_still_found_out(running: Running) -> None:
    server, _, _ = running
    async with Units("unix:path=/nowhere/bus") as nobody:
        subject = await gather(server.settings, nobody, Kind.MIGRATE)
        assert isinstance(subject.unit, Missing) and isinstance(subject.rescue_armed, Missing)
        assert not isinstance(subject.kine, Missing) and not isinstance(subject.files, Missing)
        results = await run(Kind.MIGRATE, subject)
    assert "unit" in {r.name for r in results if r.status is CheckStatus.REFUSED}


async def test_with_nothing_there_at_all_everything_is_refused_and_nothing_raised(tmp_path: Path) -> None:
    settings = Settings(
        data_dir=tmp_path / "none", k3s_config=tmp_path / "c.yaml", systemd_dir=tmp_path, state_dir=tmp_path / "s"
    )
    async with Units("unix:path=/nowhere/bus") as nobody:
        for kind in (Kind.MIGRATE, Kind.ROLLBACK):
            results = await run(kind, await gather(settings, nobody, kind))
            assert {"unit", "token", "credentials"} <= {r.name for r in results if r.status is CheckStatus.REFUSED}
    assert not (tmp_path / "none").exists()


async def test_an_armed_rescue_and_an_unfinished_operation_are_seen(running: Running) -> None:
    server, units, systemd = running
    systemd.write_unit("k3s-ha-agent-rescue.service", "[Service]\nType=oneshot\nExecStart=/bin/true\n")
    await units.daemon_reload()
    await units.start_transient_timer("k3s-ha-agent-rescue.timer", after=3600, description="test")
    done = Operation("done", Kind.MIGRATE, {}, "t", (), phase=Phase.FINISHED, outcome=Outcome.ROLLED_BACK)
    cut_off = Operation("cut-off", Kind.MIGRATE, {}, "t", ())
    subject = await gather(server.settings, units, Kind.MIGRATE, history=[cut_off, done])
    assert subject.rescue_armed is True and subject.unfinished == "cut-off"
    subject = await gather(server.settings, units, Kind.MIGRATE, history=[done])
    assert subject.unfinished is None
    await (await units.stop_unit("k3s-ha-agent-rescue.timer")).wait(60)


async def test_two_at_once_do_not_get_into_each_others_way(running: Running) -> None:
    server, units, _ = running
    subjects = await asyncio.gather(*(gather(server.settings, units, Kind.MIGRATE) for _ in range(3)))
    for subject in subjects:
        assert not isinstance(subject.kine, Missing), subject.kine
        assert subject.kine.live_rows == 340
    assert [p.name for p in server.settings.state_dir.iterdir()] == ["preflight.lock"]


async def test_the_inspector_asks_for_the_pre_image_and_hands_over_facts(running: Running) -> None:
    server, units, _ = running
    asked: list[object] = []

    def pre_image_of(history: object) -> PreImage | Missing:
        asked.append(history)
        return PreImage("op", server.directory, VERSION, 1000, "its manifest is gone.")

    inspector = NodeInspector(server.settings, units, pre_image_of=pre_image_of)
    results, facts = await inspector.examine(Kind.ROLLBACK, accept_slow_disk=False, history=())
    assert asked == [()]
    refused = {r.name: r.found for r in results if r.status is CheckStatus.REFUSED}
    assert "its manifest is gone." in refused["pre-image"] and "etcd-in-use" in refused
    assert facts["live_rows"] is None and facts["node_name"] == "n1"
    results, facts = await inspector.examine(Kind.MIGRATE, accept_slow_disk=True, history=())
    assert facts["live_rows"] == 340 and len(asked) == 1
    with pytest.raises(InvalidBody) as caught:
        await inspector.examine(Kind.JOIN, accept_slow_disk=False, history=())
    assert "/v1/join" in caught.value.next_step and "dry_run" in caught.value.next_step
    assert len(asked) == 1, "nothing is looked at for what cannot be done"
    state = await inspector.survey()
    assert state.datastore is Datastore.SQLITE
