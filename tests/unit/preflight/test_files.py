"""What stat says, on real files and mounts."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from k3s_ha_agent.k3s.layout import Layout
from k3s_ha_agent.model import Datastore
from k3s_ha_agent.preflight import files
from k3s_ha_agent.preflight.files import FileFacts
from tests.unit.preflight.subjects import recorded_sqlite

REPOSITORY = Path(__file__).parents[3]


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout(tmp_path / "data")
    recorded_sqlite(layout.db)
    for name in files._BOOTSTRAP_FILES + files._CLIENT_FILES:
        path = layout.server / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    return layout


def look(layout: Layout, tmp_path: Path, *read_at_start: Path) -> FileFacts:
    return files.read(
        layout,
        drop_in=tmp_path / "etc/config.yaml.d/zz.yaml",
        gate=tmp_path / "systemd/k3s.service.d/gate.conf",
        state_dir=tmp_path / "state",
        read_at_start=read_at_start,
    )


def test_a_recorded_server_has_nothing_remarkable(layout: Layout, tmp_path: Path) -> None:
    unit = tmp_path / "k3s.service"
    unit.write_text("")
    os.utime(unit, (5, 5))
    found = look(layout, tmp_path, unit, tmp_path / "gone")
    assert found == FileFacts(
        datastore=Datastore.SQLITE,
        datastore_detail=found.datastore_detail,
        sqlite_bytes=638_976 + 4_408_432,
        migrated=False,
        leftovers=(),
        reset_flag=False,
        tombstone=False,
        credentials_missing=(),
        credentials_in_future=(),
        surprises=(),
        encryption=False,
        encryption_stage=None,
        config_drop_in=False,
        gate=False,
        db_mount=found.quarantine_mount,
        quarantine_mount=found.db_mount,
        unwritable=(),
        unit_drop_ins=(),
        changed_at={unit: 5.0},
    )


def _touch(path: Path, text: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_drop_ins_of_the_unit_that_say_something(layout: Layout, tmp_path: Path) -> None:
    beside = tmp_path / "systemd/k3s.service.d"
    for name in ("b.conf", "a.conf", "gate.conf", "a.conf.rpmsave"):
        _touch(beside / name, "[Service]\n")
    _touch(beside / "empty.conf")
    (beside / "masked.conf").symlink_to("/dev/null")
    assert look(layout, tmp_path).unit_drop_ins == (beside / "a.conf", beside / "b.conf")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda lay, tmp: _touch(lay.state_db_migrated), {"migrated": True}),
        (lambda lay, tmp: _touch(lay.reset_flag), {"reset_flag": True}),
        (lambda lay, tmp: _touch(lay.tombstone), {"tombstone": True}),
        (lambda lay, tmp: _touch(lay.etcd_name, "n1-abc"), {"leftovers": (), "datastore": Datastore.SQLITE}),
        (lambda lay, tmp: (lay.db / "tmp-etcd").mkdir(), {"leftovers": "tmp-etcd"}),
        (lambda lay, tmp: (lay.db / "etcd-tmp").mkdir(), {"leftovers": "etcd-tmp"}),
        (lambda lay, tmp: (lay.etcd / "member/snap").mkdir(parents=True), {"leftovers": "member"}),
        (
            lambda lay, tmp: lay.etcd_member_wal.mkdir(parents=True),
            {"datastore": Datastore.HALF_COPIED, "leftovers": ()},
        ),
        (lambda lay, tmp: lay.passwd.unlink(), {"credentials_missing": ("cred/passwd",)}),
        (lambda lay, tmp: lay.passwd.write_text(""), {"credentials_missing": ("cred/passwd",)}),
        (lambda lay, tmp: lay.admin_key.unlink(), {"credentials_missing": ("tls/client-admin.key",)}),
        (lambda lay, tmp: os.utime(lay.passwd, (time.time() + 60,) * 2), {"credentials_in_future": ("cred/passwd",)}),
        (lambda lay, tmp: os.utime(lay.passwd, (time.time() + 1,) * 2), {"credentials_in_future": ()}),
        (lambda lay, tmp: _touch(lay.cred / "encryption-config.json", "{}"), {"encryption": True}),
        (
            lambda lay, tmp: _touch(lay.cred / "encryption-state.json", "start-" + "a" * 64),
            {"encryption_stage": "start"},
        ),
        (
            lambda lay, tmp: _touch(lay.cred / "encryption-state.json", "reencrypt_active-" + "a" * 64),
            {"encryption_stage": "reencrypt_active"},
        ),
        (lambda lay, tmp: _touch(lay.cred / "encryption-state.json", ""), {"encryption_stage": "unreadable"}),
        (lambda lay, tmp: _touch(tmp / "etc/config.yaml.d/zz.yaml"), {"config_drop_in": True}),
        (lambda lay, tmp: _touch(tmp / "systemd/k3s.service.d/gate.conf"), {"gate": True}),
    ],
)
def test_each_remarkable_thing_is_seen(
    change: Callable[[Layout, Path], object], expected: dict[str, object], layout: Layout, tmp_path: Path
) -> None:
    change(layout, tmp_path)
    found = look(layout, tmp_path)
    for name, value in expected.items():
        if name == "leftovers" and isinstance(value, str):
            assert [path.name for path in found.leftovers] == [value]
        else:
            assert getattr(found, name) == value


def test_links_instead_of_files_are_surprises(layout: Layout, tmp_path: Path) -> None:
    real = tmp_path / "elsewhere.db"
    layout.state_db.rename(real)
    layout.state_db.symlink_to(real)
    (tmp_path / "real-etcd").mkdir()
    layout.etcd.symlink_to(tmp_path / "real-etcd")
    found = look(layout, tmp_path).surprises
    assert found == (
        f"{layout.state_db} is a symbolic link to {real}.",
        f"{layout.etcd} is a symbolic link to {tmp_path / 'real-etcd'}.",
    )


def test_a_dangling_link_is_seen_as_well(layout: Layout, tmp_path: Path) -> None:
    layout.state_db_migrated.symlink_to("/nowhere/at/all")
    found = look(layout, tmp_path)
    assert found.migrated and len(found.surprises) == 1


def test_a_linked_data_dir_is_no_surprise(layout: Layout, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(layout.data_dir)
    assert look(Layout(tmp_path / "link"), tmp_path).surprises == ()


MOUNTS = """
    import os, subprocess, sys
    from pathlib import Path
    from k3s_ha_agent.k3s.layout import Layout
    from tests.unit.preflight.test_files import look

    def bind(path, *options):
        subprocess.run(["mount", "--bind", path, path], check=True)
        if options:
            subprocess.run(["mount", "-o", "remount,bind," + ",".join(options), path], check=True)

    tmp_path = Path(sys.argv[1])
    layout = Layout(tmp_path / "data")
    bind(layout.db)
    found = look(layout, tmp_path)
    assert layout.db.stat().st_dev == layout.data_dir.stat().st_dev
    assert found.db_mount != found.quarantine_mount, found
    try:
        (layout.db / "state.db-shm").rename(layout.data_dir / "x")
    except OSError as error:
        assert error.errno == 18, error
    else:
        raise AssertionError("a rename across these mounts works: the check would be wrong")
    bind(layout.state_db)
    assert look(layout, tmp_path).surprises == (f"{layout.state_db} is a mount point.",)
    (tmp_path / "systemd").mkdir()
    bind(tmp_path / "systemd", "ro")
    assert look(layout, tmp_path).unwritable == (tmp_path / "systemd/k3s.service.d",)
"""


def test_bind_mounts_and_read_only_places_are_seen(layout: Layout, tmp_path: Path) -> None:
    """In a mount namespace of its own, which ends with the process."""
    subprocess.run(
        ["unshare", "--mount", sys.executable, "-c", textwrap.dedent(MOUNTS), str(tmp_path)],
        check=True,
        cwd=REPOSITORY,
        timeout=120,
    )
