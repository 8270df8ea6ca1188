"""What a pre-image that was cut off leaves, and what goes of it."""

from __future__ import annotations

import subprocess
from pathlib import Path

from k3s_ha_agent.operations import pre_image


def test_only_what_was_cut_off_goes(tmp_path: Path) -> None:
    tls = tmp_path / "files/var/lib/rancher/k3s/server/tls"
    (tmp_path / ".state.db.read").mkdir()
    tls.mkdir(parents=True)
    kept = (tmp_path / "state.db", tls / "server-ca.key", tls / ".hidden")
    gone = (tmp_path / ".sealed.db.tmp", tmp_path / ".state.db.read/x", tls / ".client-admin.key.tmp")
    for path in (*kept, *gone):
        path.write_text("x")

    pre_image.remove_temporary(tmp_path)

    assert [path.exists() for path in (*kept, *gone)] == [True] * 3 + [False] * 3


def test_what_cannot_be_removed_is_told_and_tried_again(tmp_path: Path) -> None:
    backup = tmp_path / "backups/op1"
    backup.mkdir(parents=True)
    left = backup / ".sealed.db.tmp"
    left.write_text("x")
    subprocess.run(["chattr", "+i", str(left)], check=True)
    try:
        assert "cannot be removed yet" in pre_image.tidy(backup)
    finally:
        subprocess.run(["chattr", "-i", str(left)], check=True)

    pre_image.remove_all_temporary(tmp_path)

    assert not left.exists()
    assert pre_image.tidy(backup) == ""
