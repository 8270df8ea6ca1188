"""The .deb installed, upgraded, removed and purged in a root, by dpkg and the package's own scripts.

systemd is a stand-in there (``root.py``); with a real one, in a node, the same is tested in the lab.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.packaging import sources
from tests.packaging.build import PREVIOUS
from tests.packaging.root import FINISHED, FLAG, ROLLBACK_FAILED, ROLLED_BACK, STATE, UNIT, Root

GATE = "etc/systemd/system/k3s.service.d/zz-k3s-ha-agent-gate.conf"


def install(root: Root, package: Path, **environment: str) -> str:
    (root.path / "tmp" / package.name).write_bytes(package.read_bytes())
    done = root.run(
        "dpkg", "--force-unsafe-io", "--no-triggers", "--install", f"/tmp/{package.name}", environment=environment
    )
    return done.stdout + done.stderr


def remove(root: Root, action: str = "--remove", **environment: str) -> tuple[bool, str]:
    """Whether dpkg removed it, and what was said."""
    done = root.run(
        "dpkg", "--force-unsafe-io", "--no-triggers", action, "k3s-ha-agent", check=False, environment=environment
    )
    return done.returncode == 0, done.stdout + done.stderr


def status(root: Root) -> str:
    """Such as ``installed 0.1.0``; empty when dpkg does not know the package."""
    show = "${db:Status-Status} ${Version}"
    return root.run("dpkg-query", "--show", "--showformat", show, "k3s-ha-agent", check=False).stdout.strip()


# --- installation ----------------------------------------------------------------------------------


def test_it_is_enabled_and_started(root: Root, deb: Path) -> None:
    install(root, deb)
    assert status(root) == f"installed {sources.version()}"
    wants = root.inside(f"etc/systemd/system/multi-user.target.wants/{UNIT}")
    assert str(wants.readlink()) == f"/lib/systemd/system/{UNIT}"
    assert root.active
    assert root.starts == 1
    assert not any("rescue" in line for line in root.asked)


def test_group_and_state_directory_are_made(root: Root, deb: Path) -> None:
    install(root, deb)
    assert root.run("getent", "group", "k3s-ha").stdout.startswith("k3s-ha:")
    made = (root.path / STATE).stat()
    assert (made.st_uid, made.st_mode & 0o7777) == (0, 0o700)


def test_the_programs_run(root: Root, deb: Path) -> None:
    """With Debian's own versions of everything, and whatever the caller's environment says."""
    install(root, deb)
    (root.path / "tmp/k3s_ha_agent.py").write_text("raise SystemExit('loaded from the caller')")
    trap = {"PYTHONPATH": "/tmp"}
    version = root.run("k3s-ha-agent", "--version", environment=trap).stdout
    assert version.split()[-1] == sources.version()
    for program in set(sources.programs()) - {"k3s-ha-agent"}:
        assert program in root.run(program, "--help", environment=trap).stdout
    root.run("/usr/lib/k3s-ha-agent/rescue")


def test_the_modules_are_compiled(root: Root, deb: Path) -> None:
    """The agent's sandbox could not write bytecode."""
    install(root, deb)
    cache = root.inside("usr/lib/python3/dist-packages/k3s_ha_agent/__pycache__")
    assert [p.name.split(".")[0] for p in cache.glob("__main__.*.pyc")] == ["__main__"]


def test_an_administrator_who_disabled_it_keeps_it_so(root: Root, deb: Path, previous_deb: Path) -> None:
    install(root, previous_deb)
    root.run("systemctl", "disable", "--now", UNIT)
    install(root, deb)
    assert not root.active
    assert root.starts == 1


def test_nothing_is_started_where_policy_forbids_it(root: Root, deb: Path) -> None:
    root.allow_services(False)
    install(root, deb)
    assert root.starts == 0


# --- upgrade ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("ended", [None, FINISHED, ROLLED_BACK, ROLLBACK_FAILED])
def test_an_idle_agent_is_restarted(root: Root, deb: Path, previous_deb: Path, ended: dict[str, Any] | None) -> None:
    install(root, previous_deb)
    assert status(root).endswith(PREVIOUS)
    if ended is not None:
        root.record(**ended)
    install(root, deb)
    assert status(root) == f"installed {sources.version()}"
    assert root.active
    assert root.starts == 2
    assert not (root.path / FLAG).exists()


def test_an_agent_at_work_is_left_alone(root: Root, deb: Path, previous_deb: Path) -> None:
    install(root, previous_deb)
    root.record()
    asked = len(root.asked)
    said = install(root, deb)
    assert status(root) == f"installed {sources.version()}"
    assert root.active
    assert root.starts == 1
    assert not any(verb in line.split() for line in root.asked[asked:] for verb in ("stop", "restart", "try-restart"))
    assert (root.path / FLAG).exists()
    assert "The migrate migrate-1 has not ended." in said
    assert "restarts as the new version" in said


def test_an_agent_that_died_at_work_is_started(root: Root, deb: Path, previous_deb: Path) -> None:
    install(root, previous_deb)
    root.record()
    root.kill_agent()
    install(root, deb)
    assert root.active
    assert root.starts == 2


def test_the_rescue_is_replaced_in_one_act(root: Root, deb: Path, previous_deb: Path, tmp_path: Path) -> None:
    """Never absent and never half there: dpkg writes it beside and renames it."""
    install(root, previous_deb)
    package = root.path / "tmp" / deb.name
    package.write_bytes(deb.read_bytes())
    root.run("strace", "-f", "-qq", "-o", "/tmp/trace", "-e", "trace=/^(rename|unlink|open|creat|truncate)",
             "dpkg", "--no-triggers", "--install", f"/tmp/{deb.name}")  # fmt: skip
    path = '/usr/lib/k3s-ha-agent/rescue"'
    touched = [line for line in (root.path / "tmp/trace").read_text().splitlines() if path in line]
    changed = [line for line in touched if "O_RDONLY" not in line and "ENOENT" not in line]
    assert len(changed) == 1, changed
    assert 'rescue.dpkg-new", "' in changed[0]
    assert changed[0].split(" ", 1)[1].lstrip().startswith("rename(")


# --- removal ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("record", [{}, {"format": 2}, {"outcome": "succeeded", "committed": True}, ROLLBACK_FAILED])
def test_removal_is_refused(root: Root, deb: Path, record: dict[str, Any]) -> None:
    install(root, deb)
    root.record(**record)
    for action in ("--remove", "--purge"):
        removed, said = remove(root, action)
        assert not removed
        assert "migrate-1" in said
        assert "systemctl start k3s-ha-agent-rescue.service" in said
    assert status(root) == f"installed {sources.version()}"
    assert root.active
    assert root.starts == 1
    assert root.exists("usr/lib/k3s-ha-agent/rescue")
    assert root.inside(f"etc/systemd/system/multi-user.target.wants/{UNIT}").is_symlink()


def test_removal_is_refused_while_the_gate_is_closed(root: Root, deb: Path) -> None:
    install(root, deb)
    gate = root.inside(GATE)
    gate.parent.mkdir(parents=True)
    gate.touch()
    removed, said = remove(root)
    assert not removed
    assert f"/{GATE}" in said
    gate.unlink()
    assert remove(root)[0]


def test_removal_is_refused_when_nothing_can_be_found_out(root: Root, deb: Path) -> None:
    """The program that knows is gone: that is no permission."""
    install(root, deb)
    root.run("rm", "/usr/lib/k3s-ha-agent/unfinished")
    removed, said = remove(root)
    assert not removed
    assert "cannot be found out" in said
    assert root.active


def test_an_operation_that_begins_during_the_removal(root: Root, deb: Path) -> None:
    """The agent was stopped before it was seen: it is started again and goes on with it."""
    install(root, deb)
    root.record(**FINISHED)
    unfinished = (root.path / STATE / "operations/migrate-1/record.json").read_text().replace('"succeeded"', "null")
    hook = root.path / "run/on-stop"
    hook.write_text(f"#!/bin/sh\ncat >/{STATE}/operations/migrate-1/record.json <<'END'\n{unfinished}\nEND\n")
    hook.chmod(0o755)
    removed, said = remove(root)
    assert not removed
    assert "has not ended" in said
    assert root.active
    assert root.starts == 2
    assert status(root) == f"installed {sources.version()}"


def test_removal_as_told(root: Root, deb: Path) -> None:
    install(root, deb)
    root.record()
    removed, said = remove(root, K3S_HA_AGENT_REMOVE="force")
    assert removed
    assert "has not ended" in said
    assert not root.active


def test_removal_keeps_state_and_configuration(root: Root, deb: Path) -> None:
    install(root, deb)
    root.record(**FINISHED)
    backup = root.backup()
    removed, _ = remove(root)
    assert removed
    assert not root.active
    for path in ("usr/lib/k3s-ha-agent", "usr/lib/python3/dist-packages/k3s_ha_agent", "usr/bin/k3s-ha-agent"):
        assert not root.exists(path), path
    assert backup.exists()
    assert (root.path / STATE / "operations/migrate-1/record.json").exists()
    assert root.exists("etc/k3s-ha-agent/config.yaml")


# --- purge -----------------------------------------------------------------------------------------


def purge_after_use(root: Root, deb: Path, **environment: str) -> str:
    install(root, deb)
    root.record(**FINISHED)
    root.backup()
    (root.path / STATE / "lock").touch()
    root.inside("etc/k3s-ha-agent/conf.d/site.yaml").write_text("log_level: debug\n")
    removed, said = remove(root, "--purge", **environment)
    assert removed, said
    assert status(root) in ("", "not-installed")
    assert not root.exists("etc/k3s-ha-agent")
    assert not root.inside(f"etc/systemd/system/multi-user.target.wants/{UNIT}").is_symlink()
    return said


def test_purge_never_takes_a_backup_unasked(root: Root, deb: Path) -> None:
    said = purge_after_use(root, deb)
    left = [str(p.relative_to(root.path / STATE)) for p in (root.path / STATE).rglob("*") if p.is_file()]
    assert left == ["backups/migrate-1/sealed.db"]
    assert f"The backups in /{STATE}/backups are kept." in said


def test_purge_takes_backups_when_the_environment_says_so(root: Root, deb: Path) -> None:
    purge_after_use(root, deb, K3S_HA_AGENT_PURGE_BACKUPS="yes")
    assert not (root.path / STATE).exists()


def test_purge_takes_backups_when_a_file_says_so(root: Root, deb: Path) -> None:
    install(root, deb)
    root.inside("etc/k3s-ha-agent/purge-backups").touch()
    root.backup()
    assert remove(root)[0]
    assert remove(root, "--purge")[0]
    assert not (root.path / STATE).exists()
    assert not root.exists("etc/k3s-ha-agent")


def test_purge_leaves_nothing_when_nothing_was_done(root: Root, deb: Path) -> None:
    install(root, deb)
    assert remove(root, "--purge")[0]
    assert not (root.path / STATE).exists()
    assert not root.exists("etc/k3s-ha-agent")
