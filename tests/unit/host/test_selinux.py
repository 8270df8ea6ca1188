"""restorecon is run where SELinux is in use, and nothing is run elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from k3s_ha_agent.errors import OutsideError
from k3s_ha_agent.host import selinux


@pytest.fixture
def restorecon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A restorecon that writes down what it was asked; SELinux in use."""
    program = tmp_path / "restorecon"
    program.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\nexit $(cat {tmp_path}/status)\n')
    program.chmod(0o755)
    (tmp_path / "status").write_text("0")
    (tmp_path / "enforce").touch()
    monkeypatch.setattr(selinux, "RESTORECON", program)
    monkeypatch.setattr(selinux, "ENFORCE", tmp_path / "enforce")
    return tmp_path


def test_what_is_there_is_relabelled(restorecon: Path) -> None:
    selinux.restore((restorecon, restorecon / "missing"))
    assert (restorecon / "asked").read_text() == f"-R -- {restorecon}\n"


def test_a_failure_is_said(restorecon: Path) -> None:
    (restorecon / "status").write_text("1")
    with pytest.raises(OutsideError, match="restorecon failed"):
        selinux.restore((restorecon,))


def test_nothing_is_run_without_selinux(restorecon: Path) -> None:
    (restorecon / "enforce").unlink()
    selinux.restore((restorecon,))
    assert not (restorecon / "asked").exists()
