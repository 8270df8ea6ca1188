"""Man pages, completion and reference pages are those their sources make, and are taken by the tools they are for."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from k3s_ha_agent.ctl.arguments import build_parser
from k3s_ha_agent.ctl.commands import COMMANDS
from k3s_ha_agent.settings import Settings
from tests.unit.ctl.conftest import Scene, environment

ROOT = Path(__file__).resolve().parents[3]
MADE = ("packaging/man", "packaging/completion", "docs/reference")
BASH = ROOT / "packaging/completion/k3s-ha-agentctl.bash"


@pytest.fixture(scope="module")
def anew(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("generated")
    subprocess.run([sys.executable, str(ROOT / "packaging/generate"), str(directory)], check=True, timeout=120)
    return directory


@pytest.mark.parametrize("directory", MADE)
def test_what_is_there_is_what_is_made(anew: Path, directory: str) -> None:
    made = {p.name: p.read_text() for p in (anew / directory).iterdir()}
    there = {p.name: p.read_text() for p in (ROOT / directory).iterdir()}
    assert made.keys() == there.keys()
    assert [name for name in made if made[name] != there[name]] == [], "run: make generate"


def test_every_command_has_its_section() -> None:
    page = (ROOT / "packaging/man/k3s-ha-agentctl.1").read_text()
    sections = {s.replace("\\-", "-").split()[0] for s in re.findall(r"^\.SS (.+)$", page, re.MULTILINE)}
    assert sections == set(COMMANDS)


def test_every_setting_is_in_the_pages() -> None:
    page = (ROOT / "packaging/man/k3s-ha-agent-config.yaml.5").read_text()
    reference = (ROOT / "docs/reference/configuration.md").read_text()
    for name in set(Settings.__dataclass_fields__) - {"root"}:
        assert f"\\fB{name}\\fR (default: " in page
        assert f"| `{name}` | `" in reference


def test_exit_codes_are_those_of_the_help() -> None:
    help_text = build_parser().format_help()
    codes = re.findall(r"(?:^|  )(\d+) \w", help_text[help_text.index("exit codes:") :])
    table = re.findall(r"^\| (\d+) \|", (ROOT / "docs/reference/cli.md").read_text(), re.MULTILINE)
    assert codes == table


# --- completion ----------------------------------------------------------------------------------------


def complete(*words: str, path: str = "") -> list[str]:
    """What bash offers for the last word."""
    script = f"source {shlex.quote(str(BASH))}\nCOMP_WORDS=(k3s-ha-agentctl {shlex.join(words)})\n"
    script += f'COMP_CWORD={len(words)}\n_k3s_ha_agentctl\nprintf "%s\\n" "${{COMPREPLY[@]}}"\n'
    env = environment(PATH=f"{path}:{environment()['PATH']}" if path else environment()["PATH"])
    done = subprocess.run(["bash", "-c", script], env=env, capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (("",), list(COMMANDS)),
        (("ro",), ["rollback"]),
        (("backups", ""), ["list", "verify", "prune"]),
        (("-o", "json", "backups", "pr"), ["prune"]),
        (("--socket", "/x", "config", ""), ["validate"]),
        (("rollback", "--writes", ""), ["keep", "discard"]),
        (("rollback", "--writes", "="), ["keep", "discard"]),
        (("--output", "=", "j"), ["json"]),
        (("preflight", "--for", "=", "join", "--no"), ["--no-color"]),
        (("--for", "=", "migrate", "--acc"), []),
        (("preflight", "--for", "r"), ["rollback"]),
        (("migrate", "--acc"), ["--accept-slow-disk"]),
        (("support-bundle", "--l"), ["--lines"]),
        (("config", "validate", "--conf-d", "systemd"), ["systemd"]),
        (("migrate", "--timeout", ""), []),
        (("nonsense", "--wr"), []),
    ],
    ids=str,
)
def test_bash(words: tuple[str, ...], offered: list[str]) -> None:
    assert complete(*words) == offered


def test_bash_asks_the_agent_for_ids(scene: Scene) -> None:
    scene.start()
    for _ in range(2):
        assert scene.run("migrate").code == 0
    program = scene.directory / "k3s-ha-agentctl"
    program.write_text(f'#!/bin/sh\nexec {shlex.join(scene.command())} "$@"\n')
    program.chmod(0o755)
    assert complete("watch", "", path=str(scene.directory)) == ["op-2", "op-1"]
    assert complete("backups", "verify", "op-2", "op-1", path=str(scene.directory)) == ["op-1"]
    program.write_text(f'#!/bin/sh\nexec {shlex.join(scene.command()[:3])} "$@"\n')
    assert complete("watch", "", path=str(scene.directory)) == [], "not the agent of this machine"
    for given in (("--socket", str(scene.socket)), ("--socket", "=", str(scene.socket))):
        assert complete(*given, "watch", "", path=str(scene.directory)) == ["op-2", "op-1"]
    scene.stop()
    assert complete("--socket", str(scene.socket), "watch", "", path=str(scene.directory)) == []


@pytest.mark.parametrize(
    ("shell", "name"), [("zsh", "_k3s-ha-agentctl"), ("fish", "k3s-ha-agentctl.fish"), ("bash", BASH.name)]
)
def test_shells_can_read_it(shell: str, name: str) -> None:
    done = subprocess.run([shell, "-n", str(BASH.with_name(name))], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_fish_offers_the_same(tmp_path: Path) -> None:
    for typed, offered in (
        ("", set(COMMANDS)),
        ("backups ", {"list", "verify", "prune"}),
        ("rollback --writes ", {"keep", "discard"}),
    ):
        script = f"source {BASH.with_name('k3s-ha-agentctl.fish')}; complete --do-complete='k3s-ha-agentctl {typed}'"
        env = environment(HOME=str(tmp_path), TERM="dumb")
        done = subprocess.run(
            ["fish", "--no-config", "-c", script], env=env, capture_output=True, text=True, timeout=60
        )
        assert {line.split("\t")[0] for line in done.stdout.splitlines()} == offered, done.stderr
