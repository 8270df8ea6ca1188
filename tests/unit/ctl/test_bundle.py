"""``support-bundle``: what is in it, for whom, and above all what is not."""

from __future__ import annotations

import json
import stat
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.unit.ctl.conftest import Scene, environment

PASSWORD = "hunter2hunter2"
TOKEN = "K10" + "ab12" * 16 + "::server:" + PASSWORD
NODE = "0123456789abcdeffedcba9876543210"
SECRETS = (PASSWORD, NODE, "K10ab12", "the-agents-own-token")


@pytest.fixture
def tools(scene: Scene) -> str:
    """journalctl and systemctl as they would be on a careless server; the PATH they are found by."""
    directory = scene.directory / "bin"
    directory.mkdir()
    for name, text in (
        ("journalctl", f"k3s[1]: started with --token {TOKEN}\nk3s[1]: the password is {NODE}, keep it\n"),
        ("systemctl", f"[Service]\nEnvironment=K3S_TOKEN={PASSWORD}\nExecStart=/usr/local/bin/k3s server\n"),
    ):
        (directory / name).write_text(f"#!/bin/sh\necho \"$*\"\ncat <<'END'\n{text}END\n")
        (directory / name).chmod(0o755)
    return f"{directory}:{environment()['PATH']}"


def careless(scene: Scene) -> dict[str, str]:
    """Files of k3s and the agent, with secrets in many places; the variables the command gets."""
    data, state = scene.directory / "k3s", scene.directory / "state"
    (data / "server/cred").mkdir(parents=True)
    (data / "server/token").write_text(TOKEN + "\n")
    (data / "server/cred/passwd").write_text(f"{NODE},node,node,k3s:agent\n")
    (state / "operations/op-1").mkdir(parents=True)
    (state / "operations/op-1/record.json").write_text(json.dumps({"facts": {"token": TOKEN, "rows": 3}}, indent=1))
    (state / "operations/op-1/events.jsonl").write_text(json.dumps({"sentence": f"found {NODE}"}) + "\n")
    (state / "audit.jsonl").write_text('{"who": "uid 0"}\n')
    (state / "backups/op-1").mkdir(parents=True)
    (state / "backups/op-1/manifest.json").write_text("{}")
    (state / "backups/op-1/sealed.db").write_text(PASSWORD)
    (scene.directory / "api-token").write_text("the-agents-own-token-0123456789abcdef\n")
    return {"data_dir": str(data), "state_dir": str(state), "tcp_token_file": str(scene.directory / "api-token")}


def made(scene: Scene, tools: str, settings: dict[str, str]) -> tuple[Path, dict[str, str]]:
    """A bundle and its texts. The daemon that is asked for settings stands beside the command."""
    program = scene.directory / "bin/k3s-ha-agentctl"
    program.write_text("import sys\nfrom k3s_ha_agent.ctl.main import main\nsys.exit(main())\n")
    daemon = scene.directory / "bin/k3s-ha-agent"
    daemon.write_text(
        f"#!/bin/sh\ncat <<'END'\n{json.dumps({'ok': True, 'settings': settings, 'problems': []})}\nEND\n"
    )
    daemon.chmod(0o755)
    target = scene.directory / "bundle.tar.gz"
    command = scene.command("support-bundle", "--file", str(target), "--lines", "77")
    done = subprocess.run(
        [command[0], str(program), *command[3:]],
        env=environment(PATH=tools),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert str(target) in done.stdout
    with tarfile.open(target) as archive:
        texts = {}
        for member in archive:
            assert (member.mode, member.uid, member.isfile()) == (0o600, 0, True)
            file = archive.extractfile(member)
            assert file is not None
            texts[member.name.partition("/")[2]] = file.read().decode()
    return target, texts


def test_everything_is_in_it_and_no_secret(scene: Scene, tools: str) -> None:
    scene.start()
    assert scene.run("migrate").code == 0
    target, texts = made(scene, tools, careless(scene))
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert set(texts) == {
        *("about.txt", "settings.json", "status.json", "preflight.json", "operations.json", "backups.json"),
        *("metrics.txt", "state/audit.jsonl", "state/operations/op-1/record.json"),
        *("state/operations/op-1/events.jsonl", "state/backups/op-1/manifest.json"),
        *(f"{d}/{u}{s}" for d, s in (("units", ".txt"), ("units", ".show.txt"), ("journal", ".log"))
          for u in ("k3s-ha-agent.service", "k3s-ha-agent-rescue.service", "k3s.service")),
    }  # fmt: skip
    for secret in SECRETS:
        assert [name for name, text in texts.items() if secret in text] == [], secret
    assert json.loads(texts["status.json"])["node"]["node_name"] == "n1"
    assert json.loads(texts["operations.json"])["operations"][0]["id"] == "op-1"
    assert json.loads(texts["state/operations/op-1/record.json"])["facts"]["rows"] == 3
    assert "k3s_ha_agent_build_info" in texts["metrics.txt"]
    assert "--lines=77 --unit=k3s.service" in texts["journal/k3s.service.log"]
    assert "ExecStart=/usr/local/bin/k3s server" in texts["units/k3s.service.txt"]


def test_nothing_in_it_as_a_whole_shows_a_secret(scene: Scene, tools: str) -> None:
    """By grep, on the unpacked archive, as somebody would who got it."""
    scene.start()
    target, _ = made(scene, tools, careless(scene))
    out = scene.directory / "out"
    out.mkdir()
    subprocess.run(["tar", "-xzf", str(target), "-C", str(out)], check=True)
    for secret in SECRETS:
        found = subprocess.run(["grep", "-r", "-F", "-l", secret, str(out)], capture_output=True, text=True)
        assert (found.returncode, found.stdout) == (1, ""), secret


def test_without_an_agent_it_is_made_all_the_same(scene: Scene, tools: str) -> None:
    _, texts = made(scene, tools, careless(scene))
    assert "not to be had" in texts["status.json"] and "does not answer" in texts["status.json"]
    assert "state/audit.jsonl" in texts


def test_a_file_that_is_there_is_not_replaced(scene: Scene) -> None:
    target = scene.directory / "mine"
    target.write_text("mine")
    result = scene.run("support-bundle", "--file", str(target))
    assert result.code == 1 and "--file" in result.err
    assert target.read_text() == "mine"
