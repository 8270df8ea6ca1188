"""What a server is now, also when hardly anything answers."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest

from k3s_ha_agent.errors import EtcdError
from k3s_ha_agent.host.units import Units
from k3s_ha_agent.k3s.etcd import EtcdClient
from k3s_ha_agent.model import Datastore
from k3s_ha_agent.preflight import survey as survey_module
from k3s_ha_agent.preflight.survey import survey
from k3s_ha_agent.settings import Settings
from tests.unit.k3s.etcd_process import running_etcd
from tests.unit.preflight.server import running_server, tree
from tests.unit.preflight.subjects import VERSION


async def test_a_server_on_sqlite(tmp_path: Path) -> None:
    async with running_server(tmp_path) as (server, units, systemd):
        before = tree(server.layout.data_dir)
        state = await survey(server.settings, units)
        assert tree(server.layout.data_dir) == before
        assert state.unit_active_state == "active" and state.k3s_version == VERSION
        assert (state.node_name, state.node_ready, state.api_ready) == ("n1", True, True)
        assert state.roles == ("control-plane", "master")
        assert state.datastore is Datastore.SQLITE and str(server.layout.state_db) in state.datastore_detail
        assert state.live_keys == 340
        assert not state.gate_closed and not state.rescue_armed

        systemd.write_unit("k3s-ha-agent-rescue.service", "[Service]\nType=oneshot\nExecStart=/bin/true\n")
        await units.daemon_reload()
        await units.start_transient_timer("k3s-ha-agent-rescue.timer", after=3600, description="test")
        server.settings.gate.parent.mkdir()
        server.settings.gate.write_text("")
        server.env.write_text("K3S_NODE_NAME=n1\nK3S_DATASTORE_ENDPOINT=postgres://user:hush@db/k3s\n")
        state = await survey(server.settings, units)
        assert state.gate_closed and state.rescue_armed
        assert state.datastore is Datastore.EXTERNAL and "hush" not in state.datastore_detail
        server.layout.etcd_member_wal.mkdir(parents=True)
        state = await survey(server.settings, units)
        assert state.datastore is Datastore.HALF_COPIED, "etcd's files overrule the configuration"
        await (await units.stop_unit("k3s-ha-agent-rescue.timer")).wait(60)


async def test_a_server_on_etcd(tmp_path: Path) -> None:
    with running_etcd(tmp_path / "data") as layout:
        async with EtcdClient.from_layout(layout) as client:
            for number in range(3):
                await client.put(f"/registry/x/{number}".encode(), b"v")
            await client.put(b"/bootstrap/x", b"v")
        settings = Settings(data_dir=layout.data_dir, k3s_config=tmp_path / "c.yaml", state_dir=tmp_path / "s")
        async with Units("unix:path=/nowhere/bus") as nobody:
            state = await survey(settings, nobody)
            assert state.datastore is Datastore.ETCD and state.live_keys == 3
            shutil.rmtree(layout.tls)
            with pytest.raises(EtcdError):
                EtcdClient.from_layout(layout)
            state = await survey(settings, nobody)
            assert state.datastore is Datastore.ETCD and state.live_keys is None


async def test_nothing_answers_and_nothing_is_raised(tmp_path: Path) -> None:
    settings = Settings(
        data_dir=tmp_path / "none", k3s_config=tmp_path / "c", systemd_dir=tmp_path, state_dir=tmp_path / "s"
    )
    async with Units("unix:path=/nowhere/bus") as nobody:
        state = await survey(settings, nobody)
    assert state.datastore is Datastore.NONE and state.datastore_detail
    unknown = (state.unit_active_state, state.k3s_version, state.node_ready, state.roles, state.live_keys)
    assert set(unknown) == {None}
    assert not (tmp_path / "s").exists()


async def test_a_count_that_is_still_going_on_is_not_begun_again(tmp_path: Path) -> None:
    async with running_server(tmp_path) as (server, units, _):
        with survey_module._counting:
            state = await survey(server.settings, units)
        assert state.live_keys is None and state.datastore is Datastore.SQLITE
        assert (await survey(server.settings, units)).live_keys == 340


async def test_a_unit_of_another_name(tmp_path: Path) -> None:
    async with running_server(tmp_path) as (server, units, _):
        state = await survey(dataclasses.replace(server.settings, unit="k3s-other.service"), units)
        assert state.unit == "k3s-other.service" and state.unit_active_state == "inactive"
