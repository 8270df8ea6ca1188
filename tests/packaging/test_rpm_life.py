"""The .rpm installed, upgraded and erased in an rpm root, by rpm and the package's own scriptlets.

Built where there are no systemd-rpm-macros, so the spec's own in their place are what is run here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.packaging import sources
from tests.packaging.build import PREVIOUS
from tests.packaging.root import FINISHED, FLAG, ROLLBACK_FAILED, ROLLED_BACK, STATE, UNIT, Root

WANTS = f"etc/systemd/system/multi-user.target.wants/{UNIT}"
CACHE = "usr/lib/k3s-ha-agent/k3s_ha_agent/__pycache__"


def rpm_run(root: Root, *arguments: str, **environment: str) -> tuple[bool, str]:
    """``--nodeps``: the root's other packages are Debian's, and rpm knows none of them."""
    done = root.run(
        "rpm", "--root", str(root.path), "--dbpath", "/var/lib/rpm", "--force-debian", *arguments,
        check=False, chroot=False, environment=environment,
    )  # fmt: skip
    return done.returncode == 0, done.stdout + done.stderr


def install(root: Root, package: Path) -> str:
    installed, said = rpm_run(root, "--upgrade", "--nodeps", str(package))
    assert installed, said
    return said


def erase(root: Root, **environment: str) -> tuple[bool, str]:
    return rpm_run(root, "--erase", "k3s-ha-agent", **environment)


def version(root: Root) -> str:
    return rpm_run(root, "--query", "--queryformat=%{VERSION}", "k3s-ha-agent")[1]


# --- installation ----------------------------------------------------------------------------------


def test_it_is_enabled_and_started(root: Root, rpm: Path) -> None:
    install(root, rpm)
    assert version(root) == sources.version()
    assert str(root.inside(WANTS).readlink()).endswith(f"/lib/systemd/system/{UNIT}")
    assert root.active
    assert root.starts == 1
    assert not any("rescue" in line for line in root.asked)
    assert not (root.path / "run/k3s-ha-agent.installed").exists()


def test_a_preset_of_the_administrator_is_heeded(root: Root, rpm: Path) -> None:
    preset = root.inside("etc/systemd/system-preset/00-site.preset")
    preset.parent.mkdir(parents=True)
    preset.write_text("disable *\n")
    install(root, rpm)
    assert not root.inside(WANTS).is_symlink()
    assert root.starts == 0


def test_group_and_state_directory_are_made(root: Root, rpm: Path) -> None:
    install(root, rpm)
    assert root.run("getent", "group", "k3s-ha").stdout.startswith("k3s-ha:")
    made = (root.path / STATE).stat()
    assert (made.st_uid, made.st_mode & 0o7777) == (0, 0o700)


def test_the_programs_run(root: Root, rpm: Path) -> None:
    """From the private directory, and whatever the caller's environment says."""
    install(root, rpm)
    (root.path / "tmp/k3s_ha_agent.py").write_text("raise SystemExit('loaded from the caller')")
    trap = {"PYTHONPATH": "/tmp"}
    assert root.run("k3s-ha-agent", "--version", environment=trap).stdout.split()[-1] == sources.version()
    for program in set(sources.programs()) - {"k3s-ha-agent"}:
        assert program in root.run(program, "--help", environment=trap).stdout
    root.run("/usr/lib/k3s-ha-agent/rescue")


def test_files_are_as_packaged_and_compiled(root: Root, rpm: Path) -> None:
    install(root, rpm)
    verified, said = rpm_run(root, "--verify", "--nodeps", "k3s-ha-agent")
    assert verified, said
    assert list(root.inside(CACHE).glob("__main__.*.pyc"))


# --- upgrade ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("ended", [None, FINISHED, ROLLED_BACK, ROLLBACK_FAILED])
def test_an_idle_agent_is_restarted(root: Root, rpm: Path, previous_rpm: Path, ended: dict[str, Any] | None) -> None:
    install(root, previous_rpm)
    assert version(root).endswith(PREVIOUS)
    if ended is not None:
        root.record(**ended)
    install(root, rpm)
    assert version(root) == sources.version()
    assert root.active
    assert root.starts == 2
    assert not (root.path / FLAG).exists()


def test_an_agent_at_work_is_left_alone(root: Root, rpm: Path, previous_rpm: Path) -> None:
    install(root, previous_rpm)
    root.record()
    asked = len(root.asked)
    said = install(root, rpm)
    assert version(root) == sources.version()
    assert root.active
    assert root.starts == 1
    assert not any(verb in line.split() for line in root.asked[asked:] for verb in ("stop", "restart", "try-restart"))
    assert (root.path / FLAG).exists()
    assert "The migrate migrate-1 has not ended." in said
    assert list(root.inside(CACHE).glob("__main__.*.pyc"))


def test_an_agent_that_died_at_work_is_started(root: Root, rpm: Path, previous_rpm: Path) -> None:
    install(root, previous_rpm)
    root.record()
    root.kill_agent()
    install(root, rpm)
    assert root.active
    assert root.starts == 2


def test_a_changed_configuration_is_kept(root: Root, rpm: Path, previous_rpm: Path) -> None:
    install(root, previous_rpm)
    config = root.inside("etc/k3s-ha-agent/config.yaml")
    config.write_text("log_level: debug\n")
    install(root, rpm)
    assert config.read_text() == "log_level: debug\n"


def test_the_rescue_is_replaced_in_one_act(root: Root, rpm: Path, previous_rpm: Path) -> None:
    """Never absent and never half there: rpm writes it beside and renames it."""
    install(root, previous_rpm)
    trace = root.path / "tmp/trace"
    root.run("strace", "-f", "-qq", "-o", str(trace), "-e", "trace=/^(rename|unlink|open|creat|truncate)",
             "rpm", "--root", str(root.path), "--dbpath", "/var/lib/rpm", "--force-debian", "--upgrade", "--nodeps",
             str(rpm), chroot=False)  # fmt: skip
    touched = [line for line in trace.read_text().splitlines() if '/usr/lib/k3s-ha-agent/rescue"' in line]
    touched += [line for line in trace.read_text().splitlines() if ' "rescue"' in line]
    changed = [line for line in touched if "O_RDONLY" not in line and "O_PATH" not in line and "ENOENT" not in line]
    assert len(changed) == 1, changed
    assert changed[0].split(" ", 1)[1].lstrip().startswith("rename"), changed


# --- erasure ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("record", [{}, {"format": 2}, {"outcome": "succeeded", "committed": True}, ROLLBACK_FAILED])
def test_erasure_is_refused(root: Root, rpm: Path, record: dict[str, Any]) -> None:
    install(root, rpm)
    root.record(**record)
    erased, said = erase(root)
    assert not erased
    assert "migrate-1" in said
    assert "systemctl start k3s-ha-agent-rescue.service" in said
    assert version(root) == sources.version()
    assert root.active
    assert root.starts == 1
    assert root.exists("usr/lib/k3s-ha-agent/rescue")
    assert root.inside(WANTS).is_symlink()


def test_an_operation_that_begins_during_the_erasure(root: Root, rpm: Path) -> None:
    """The agent was stopped before it was seen: it is started again and goes on with it."""
    install(root, rpm)
    root.record(**FINISHED)
    unfinished = (root.path / STATE / "operations/migrate-1/record.json").read_text().replace('"succeeded"', "null")
    hook = root.path / "run/on-stop"
    hook.write_text(f"#!/bin/sh\ncat >/{STATE}/operations/migrate-1/record.json <<'END'\n{unfinished}\nEND\n")
    hook.chmod(0o755)
    erased, said = erase(root)
    assert not erased
    assert "has not ended" in said
    assert root.active
    assert root.starts == 2
    assert version(root) == sources.version()


def test_erasure_as_told(root: Root, rpm: Path) -> None:
    install(root, rpm)
    root.record()
    erased, said = erase(root, K3S_HA_AGENT_REMOVE="force")
    assert erased
    assert "has not ended" in said
    assert not root.active


def test_erasure_leaves_state_and_nothing_else(root: Root, rpm: Path) -> None:
    install(root, rpm)
    root.record(**FINISHED)
    backup = root.backup()
    erased, said = erase(root)
    assert erased, said
    assert "warning" not in said.lower()
    assert not root.active
    for path in ("usr/lib/k3s-ha-agent", "usr/bin/k3s-ha-agent", "etc/k3s-ha-agent", WANTS):
        assert not root.exists(path), path
    assert backup.exists()
    assert (root.path / STATE / "operations/migrate-1/record.json").exists()
