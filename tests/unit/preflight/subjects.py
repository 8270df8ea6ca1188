"""A Subject in which everything is as it should be, made from the recordings, and ways to change one thing."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from k3s_ha_agent.host.resources import Disk, FsyncProbe, Memory
from k3s_ha_agent.host.units import UnitState
from k3s_ha_agent.k3s import kine
from k3s_ha_agent.k3s.apiserver import Readiness, parse_node
from k3s_ha_agent.k3s.configuration import Configuration, effective
from k3s_ha_agent.k3s.etcd import parse_members
from k3s_ha_agent.k3s.kine import KineSummary
from k3s_ha_agent.k3s.layout import Layout
from k3s_ha_agent.k3s.token import Token
from k3s_ha_agent.k3s.version import Version
from k3s_ha_agent.model import Datastore, Kind
from k3s_ha_agent.preflight.files import FileFacts
from k3s_ha_agent.preflight.results import Missing
from k3s_ha_agent.preflight.subject import Addresses, Place, Places, PreImage, Subject, TokenFacts
from k3s_ha_agent.settings import Settings

RECORDINGS = Path(__file__).parents[2] / "recordings" / "k3s-1.22.2"
GIB = 1024**3
MIB = 1024**2
VERSION = json.loads((RECORDINGS / "version.json").read_text())["gitVersion"]
NODE = json.loads((RECORDINGS / "node-n1-sqlite.json").read_text())
TOKEN = Token.parse((RECORDINGS / "token").read_text())
ARGS = ["/usr/local/bin/k3s", *json.loads(NODE["metadata"]["annotations"]["k3s.io/node-args"])]
CONFIG = "/etc/rancher/k3s/config.yaml"
DROP_IN = "/etc/rancher/k3s/config.yaml.d/zz-k3s-ha-agent.yaml"


def recorded_sqlite(directory: Path) -> Path:
    """A copy of the recorded database with its WAL and shm; returns state.db."""
    directory.mkdir(parents=True, exist_ok=True)
    for file in sorted((RECORDINGS / "sqlite").iterdir()):
        shutil.copyfile(file, directory / file.name)
    return directory / "state.db"


def recorded_summary(directory: Path) -> KineSummary:
    copy = directory / "copy.db"
    kine.backup(recorded_sqlite(directory), copy)
    return kine.summarize(copy)


def configuration(
    *flags: str,
    yaml: Mapping[str, str] | None = None,
    environment: Mapping[str, str] | None = None,
    role: str = "server",
) -> Configuration:
    """The recorded command line with more on it, configuration files by path, and k3s.service.env."""
    return effective(
        [ARGS[0], role, *ARGS[2:], *flags],
        [("/etc/systemd/system/k3s.service.env", dict(environment or {}))],
        list((yaml or {}).items()),
    )


def unit(**changes: Any) -> UnitState:
    state = UnitState(
        name="k3s.service",
        load_state="loaded",
        active_state="active",
        sub_state="running",
        result="success",
        type="notify",
        main_pid=4711,
        invocation_id="0" * 32,
        n_restarts=0,
        unit_file_state="enabled",
        fragment_path=Path("/etc/systemd/system/k3s.service"),
        drop_in_paths=(),
        exec_start=tuple(ARGS),
        environment={},
        environment_files=(Path("/etc/systemd/system/k3s.service.env"),),
        need_daemon_reload=False,
        restart="always",
        status_errno=0,
        exec_main_code=0,
        exec_main_status=0,
        status_text="",
        active_enter_timestamp=1_800_000_000.0,
        job=0,
    )
    return dataclasses.replace(state, **changes)


def good(kind: Kind, summary: KineSummary) -> Subject:
    """A server that may be migrated, or that was migrated and may be rolled back."""
    layout = Layout()
    on_etcd = kind is Kind.ROLLBACK
    file_facts = FileFacts(
        datastore=Datastore.ETCD if on_etcd else Datastore.SQLITE,
        datastore_detail="As recorded.",
        sqlite_bytes=0 if on_etcd else 638_976 + 4_408_432,
        migrated=False,
        leftovers=(),
        reset_flag=False,
        tombstone=False,
        credentials_missing=(),
        credentials_in_future=(),
        surprises=(),
        encryption=False,
        encryption_stage=None,
        config_drop_in=on_etcd,
        gate=False,
        db_mount=25,
        quarantine_mount=25,
        unwritable=(),
        unit_drop_ins=(),
        changed_at={Path("/etc/systemd/system/k3s.service"): 1_700_000_000.0},
    )
    disk = Disk(total=100 * GIB, free=50 * GIB, device=1)
    token = TokenFacts(str(layout.token_file), TOKEN.short_hash, TOKEN.ca_hash)
    other_kind = Missing("Not looked at for this kind of operation.")
    return Subject(
        kind=kind,
        settings=Settings(),
        layout=layout,
        unit=unit(),
        configuration=configuration(yaml={DROP_IN: "cluster-init: true\n"} if on_etcd else None),
        version=Version.parse(VERSION),
        running_version=VERSION,
        files=file_facts,
        kine=other_kind if on_etcd else summary,
        places=Places(
            db=Place(layout.db, disk),
            state=Place(Path("/var/lib/k3s-ha-agent"), disk),
            systemd=Place(Path("/etc/systemd/system/k3s.service.d"), disk),
            config=Place(Path("/etc/rancher/k3s/config.yaml.d"), disk),
        ),
        memory=Memory(total=4 * GIB, available=2 * GIB),
        listeners={},
        fsync=FsyncProbe(rounds=100, p50=0.001, p99=0.004, max=0.005),
        addresses=Addresses(local=("127.0.0.1", "10.99.0.11"), dynamic=(), default="10.99.0.11"),
        clock_synchronised=True,
        server_token=token,
        configured_tokens=(),
        server_ca_hash=TOKEN.ca_hash,
        node_name="n1",
        node=parse_node(NODE),
        api_ready=Readiness(True, "ok"),
        members=tuple(parse_members(json.loads((RECORDINGS / "etcd-member-list.json").read_text()))),
        rescue_armed=False,
        unfinished=None,
        pre_image=PreImage("20261123t070000-migrate-abcdef", Path("/var/lib/k3s-ha-agent/backups/x"), VERSION, 5 * MIB),
    )


def files(subject: Subject, **changes: Any) -> Subject:
    assert isinstance(subject.files, FileFacts)
    return dataclasses.replace(subject, files=dataclasses.replace(subject.files, **changes))


def other_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
