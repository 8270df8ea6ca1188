"""What a pre-image that was cut off leaves, and what goes of it."""

from __future__ import annotations

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
