"""The command on another server's agent: over TLS with a client certificate."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from tests.api.callers import free_port
from tests.unit.ctl.conftest import LIMIT, ROOT, Result, Scene, environment
from tests.unit.ctl.test_terminal import Terminal
from tests.unit.k3s.pki import Authority

Far = Callable[..., "Distant"]


class Distant:
    """A scene whose agent is asked through its TLS port."""

    def __init__(self, scene: Scene, host: str = "localhost") -> None:
        self.scene = scene
        self.authority = Authority("agents")
        self.files = scene.directory / "tls"
        self.url = f"https://{host}:{free_port()}"
        certificate, key = self.authority.issue(self.files, "server")
        key.chmod(0o600)
        self.ca = self.files / "ca.crt"
        self.ca.write_bytes(self.authority.pem)
        self.config = scene.directory / "config.yaml"
        settings = {
            "listen_tls": self.url.removeprefix("https://").replace("localhost", "127.0.0.1"),
            "tls_certificate": str(certificate),
            "tls_key": str(key),
            "tls_client_ca": str(self.ca),
            "tls_admin": ["CN:controller"],
            "tls_read": ["CN:dashboard"],
        }
        self.config.write_text(yaml.safe_dump(settings))

    def options(self, name: str = "controller", by: Authority | None = None, ca: Path | None = None) -> list[str]:
        cert, key = (by or self.authority).issue(self.files / "callers", name)
        return ["--url", self.url, "--cacert", str(ca or self.ca), "--cert", str(cert), "--key", str(key)]

    def run(self, *arguments: str, **who: object) -> Result:
        return self.plain(*self.options(**who), *arguments)  # type: ignore[arg-type]

    def plain(self, *arguments: str) -> Result:
        """Without ``--socket``, which the scene's own commands have."""
        done = subprocess.run(
            [*self.program(), *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=LIMIT,
            cwd=ROOT, env=environment(),
        )  # fmt: skip
        return Result(done.returncode, done.stdout, done.stderr)

    def program(self) -> list[str]:
        command = self.scene.command()
        return command[: command.index("--socket")]


@pytest.fixture
def far(scene: Scene) -> Iterator[Far]:
    def start(**play: object) -> Distant:
        distant = Distant(scene)
        scene.start("--config", str(distant.config), **play)
        # The socket is there before the port is.
        for _ in range(LIMIT * 10):
            if distant.run("status").code == 0:
                return distant
        raise AssertionError(distant.run("status").err)

    yield start


def test_every_way_a_command_asks(far: Far, tmp_path: Path) -> None:
    """Reading, asking for an operation, following its events, removing."""
    distant = far()
    assert "datastore   sqlite" in distant.run("status").out
    assert distant.run("preflight").code == 0
    migrated = distant.run("migrate")
    assert (migrated.code, migrated.err) == (0, "")
    assert "start-k3s done in" in migrated.out and "this server runs on embedded etcd" in migrated.out
    assert distant.run("operations", "-o", "json").json["operations"][0]["requested_by"] == "CN:controller"
    token = tmp_path / "token"
    token.write_text("K10abc::server:hunter2\n")
    joined = distant.run("join", "https://10.0.0.1:6443", "--token-file", str(token), "--detach", "-o", "json")
    assert joined.code == 0 and "hunter2" not in joined.out


def test_what_is_said_can_be_pasted(far: Far) -> None:
    distant = far(hold_at="start-k3s")
    said = distant.run("migrate", "--detach", "-v")
    assert said.code == 0
    assert "-X POST" in said.err and f"{distant.url}/v1/migrate" in said.err
    watch = said.out.partition("Watch it: ")[2].strip()
    assert watch == " ".join(["k3s-ha-agentctl", *distant.options(), "watch", "op-1"])
    distant.scene.release()
    assert distant.plain(*watch.split()[1:]).code == 0
    command = distant.run("status", "-v").err.strip()
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=LIMIT, check=True)
    assert json.loads(done.stdout)["node"]["live_keys"] == 1245


def test_who_may_only_read(far: Far) -> None:
    distant = far()
    assert distant.run("status", name="dashboard").code == 0
    refused = distant.run("migrate", name="dashboard")
    assert refused.code == 1
    assert refused.err.splitlines() == [
        "error: The certificate CN:dashboard has not got the role admin.",
        "  next: Give it by the setting tls_admin of this agent.",
    ]
    assert distant.run("operations", "-o", "json").json["operations"] == []


def test_who_is_not_trusted(far: Far) -> None:
    distant = far()
    other = Authority("others")
    stranger = distant.run("status", by=other)
    assert stranger.code == 7, stranger.err
    # The agent's alert may be lost with the connection.
    assert "does not take the client certificate" in stranger.err or "went away before it answered" in stranger.err
    wrong = distant.files / "other.crt"
    wrong.write_bytes(other.pem)
    agent = distant.run("status", ca=wrong)
    assert agent.code == 7
    assert f"{distant.url} cannot be trusted" in agent.err and str(wrong) in agent.err
    distant.scene.stop()
    gone = distant.run("status")
    assert gone.code == 7 and f"does not answer on {distant.url}: Connection refused" in gone.err


def test_a_certificate_for_another_name(scene: Scene) -> None:
    """It is the authority's, but of another server: whoever holds it must not be taken for this one."""
    distant = Distant(scene, "127.0.0.2")
    scene.start("--config", str(distant.config))
    for _ in range(LIMIT * 10):
        result = distant.run("status")
        if "Connection refused" not in result.err:
            break
    assert result.code == 7 and "IP address mismatch" in result.err, result


def test_the_question_names_the_server(far: Far) -> None:
    distant = far()
    terminal = Terminal([*distant.program(), *distant.options(), "migrate"])
    terminal.until("[y/N] ")
    assert f"Move {distant.url} from SQLite" in terminal.text
    terminal.type("n\n")
    assert terminal.end() == 1


URL = ["--url", "https://n1:9581"]
FILES = ["--cacert", "/ca", "--cert", "/c", "--key", "/k"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([*URL, "status"], "--url needs --cacert, --cert and --key"),
        ([*URL, *FILES[:4], "status"], "--url needs"),
        (["status", *FILES], "go with --url"),
        ([*URL, *FILES, "--socket", "/s", "status"], "exclude each other"),
        ([*URL, *FILES, "support-bundle"], "leave out --url"),
        ([*URL, *FILES, "config", "validate"], "leave out --url"),
    ],
    ids=lambda value: "",
)
def test_usage(scene: Scene, arguments: list[str], words: str) -> None:
    result = Distant(scene).plain(*arguments)
    assert result.code == 2 and words in result.err, result.err


@pytest.mark.parametrize(
    "url", ["http://localhost:1", "https://", "https://u@h:1", "https://h:1/v1", "https://h:x", "localhost:9581"]
)
def test_urls_that_are_none(scene: Scene, url: str) -> None:
    options = Distant(scene).options()
    options[1] = url
    result = Distant(scene).plain(*options, "status")
    assert result.code == 2 and repr(url) in result.err, result


@pytest.mark.parametrize("which", ["--cacert", "--cert", "--key"])
@pytest.mark.parametrize("how", ["missing", "not PEM"])
def test_files_that_cannot_be_used(scene: Scene, tmp_path: Path, which: str, how: str) -> None:
    distant = Distant(scene)
    options = distant.options()
    bad = tmp_path / "bad.pem"
    if how != "missing":
        bad.write_text("nothing")
    options[options.index(which) + 1] = str(bad)
    result = distant.plain(*options, "status")
    assert result.code == 2 and "cannot be used" in result.err, result
    assert str(bad) in result.err
