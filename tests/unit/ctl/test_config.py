"""``config validate``: the daemon's own judgement, with the files the settings name."""

from __future__ import annotations

from pathlib import Path

from k3s_ha_agent.ctl.config import agent_program
from tests.unit.ctl.conftest import Scene

TOKEN = "0123456789abcdef0123456789abcdef"


def test_valid(scene: Scene) -> None:
    file = scene.directory / "config.yaml"
    file.write_text("stop_timeout: 2m\n")
    (scene.directory / "d").mkdir()
    given = ("config", "validate", "--config", str(file), "--conf-d", str(scene.directory / "d"))
    result = scene.run(*given)
    assert result.code == 0, result.err
    assert "stop_timeout         2m\n" in result.out and "systemctl restart" in result.out
    assert scene.run(*given, "-o", "json").json["settings"]["stop_timeout"] == "2m"


def test_wrong(scene: Scene) -> None:
    file = scene.directory / "config.yaml"
    file.write_text("stop_timeot: 2m\n")
    result = scene.run("config", "validate", "--config", str(file))
    assert result.code == 2 and "stop_timeot" in result.err and result.out == ""
    assert scene.run("config", "validate", "--config", str(file), "-o", "json").json["ok"] is False
    assert scene.run("config", "validate", "--config", "/none").code == 2


def test_files_that_are_named_are_looked_at(scene: Scene) -> None:
    file, token = scene.directory / "config.yaml", scene.directory / "token"
    file.write_text(
        f"listen_tcp: 127.0.0.1:9580\ntcp_token_file: {token}\nlisten_tls: 0.0.0.0:9581\ntls_read: ['CN:a']\n"
    )
    result = scene.run("config", "validate", "--config", str(file), "-o", "json")
    assert result.code == 2 and len(result.json["problems"]) == 2
    token.write_text(TOKEN)
    token.chmod(0o644)
    result = scene.run("config", "validate", "--config", str(file))
    assert "read by others" in result.err and TOKEN not in result.err + result.out


def test_the_daemon_beside_this_program_is_asked(tmp_path: Path) -> None:
    assert agent_program(str(tmp_path / "k3s-ha-agentctl"))[1:] == ["-m", "k3s_ha_agent"]
    (tmp_path / "k3s-ha-agent").touch(mode=0o755)
    assert agent_program(str(tmp_path / "k3s-ha-agentctl")) == [str(tmp_path / "k3s-ha-agent")]
