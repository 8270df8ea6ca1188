"""A server's whole life with secrets in it, and everything that was produced meanwhile.

The agent and the rescue run under the UMask= of their units, and under strace, which tells every program they start
(arguments and environment, -v) and every file they create (name and mode).
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import http.client
import json
import os
import re
import ssl
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.crash.installed import UNIT, unit_lines
from tests.crash.quick_node import K3S, REPOSITORY, RESCUE_SERVICE, QuickNode, quick_node, wait_for
from tests.crash.ways import DISCARD, PATIENT
from tests.standin.networks import own_network

AGENT_UNIT = REPOSITORY / "systemd/k3s-ha-agent.service"
OPENAPI = REPOSITORY / "k3s_ha_agent/api/openapi.yaml"
PORT = 9443
SECRET = "correct-horse-battery-staple-7f3a"
API_TOKEN = "the-api-token-0123456789abcdef-xyz"
WRONG_TOKEN = "the-api-token-0123456789abcdef-xyy"
JOIN_PASSWORD = "join-password-41b2c7d9e0"
DATABASE_PASSWORD = "database-password-55aa"
KEY = "/registry/secrets/default/top"


@dataclasses.dataclass
class Produced:
    """``texts``: everything that was said or written, by where; ``files`` and ``made``: modes by path."""

    secrets: Mapping[str, str]
    root: Path
    texts: dict[str, bytes] = dataclasses.field(default_factory=dict)
    modes: dict[Path, int] = dataclasses.field(default_factory=dict)
    """Of what lies there at the end, links left out."""
    made: list[tuple[str, int]] = dataclasses.field(default_factory=list)
    """Files and directories the agent and the rescue created, also for a moment; the mode after the umask."""
    programs: list[str] = dataclasses.field(default_factory=list)
    outcomes: list[str] = dataclasses.field(default_factory=list)
    core: list[tuple[str, ...]] = dataclasses.field(default_factory=list)
    """Limits of core dumps the agent and the rescue gave themselves, for each of their lives."""
    lives: int = 0

    def holding(self, texts: Mapping[str, bytes]) -> list[str]:
        return [f"{where} holds {name}" for where, text in texts.items() for name in found_in(text, self.secrets)]


def found_in(text: bytes, secrets: Mapping[str, str]) -> list[str]:
    """Names of the secrets a text holds, in the clear, in base64 at any place of three, or in hex."""
    return [name for name, secret in secrets.items() if any(form in text for form in _forms(secret.encode()))]


def _forms(secret: bytes) -> Iterator[bytes]:
    yield secret
    yield secret.hex().encode()
    for before in range(3):
        whole = base64.b64encode(bytes(before) + secret)
        yield whole[-(-before * 8 // 6) :].rstrip(b"=")[1:-1]  # but for what other bytes have a part in


# --- the life --------------------------------------------------------------------------------------


class Life:
    def __init__(self, node: QuickNode) -> None:
        self.node = node
        self.log = node.root / "strace"
        self.log.mkdir(mode=0o700)
        token = (node.data / "server/token").read_text().strip()
        self.produced = Produced(
            {
                "k3s's token": token,
                "its password": token.rpartition(":")[2],
                "a Secret's value": SECRET,
                "the API token": API_TOKEN,
                "a mistyped API token": WRONG_TOKEN,
                "the token of a join": JOIN_PASSWORD,
                "the password of a database": DATABASE_PASSWORD,
            },
            node.root,
        )
        self._lives = 0

    def traced(self, unit: Path) -> list[str]:
        """Words before a command: the unit's umask, and strace, whose tracee stays our child (-D)."""
        self._lives += 1
        (umask,) = unit_lines(unit, "UMask")
        strace = ["strace", "-D", "-f", "-v", "-s", "100000", "-y", "-o", str(self.log / f"{self._lives}"), "-e"]
        strace += ["trace=execve,open,openat,creat,mkdir,mkdirat,memfd_create,setrlimit,prlimit64"]
        return ["sh", "-c", f'umask {umask} && exec "$@"', "sh", *strace]

    def start_agent(self, die: str | None = None) -> None:
        self.node.start_agent(die, wrap=self.traced(AGENT_UNIT))

    def ask(self, method: str, path: str, body: object = None) -> Any:
        status, answer = self.node.api(method, path, body, timeout=310)
        self.say(f"{method} {path} ({self._lives}.{len(self.produced.texts)}): {status}", answer)
        return answer

    def say(self, where: str, answer: object) -> None:
        self.produced.texts[where] = answer if isinstance(answer, bytes) else json.dumps(answer).encode()

    def ask_everything(self) -> None:
        """Every GET of the API, for every operation."""
        ids = [record["id"] for record in self.node.records()]
        for path, methods in yaml.safe_load(OPENAPI.read_text())["paths"].items():
            if "get" in methods:
                for each in [path.replace("{id}", i) for i in ids] if "{id}" in path else [path]:
                    self.ask("GET", each + ("?verify=true" if "backups/" in each else ""))

    def operate(self, kind: str, body: Mapping[str, object]) -> str:
        operation = self.ask("POST", f"/v1/{kind}", {**PATIENT, **body})["id"]
        outcome = str(self.ask("GET", f"/v1/operations/{operation}/wait?timeout=300s")["outcome"])
        self.produced.outcomes.append(f"{kind} {outcome}")
        return outcome

    def refused(self, kind: str, body: Mapping[str, object]) -> None:
        self.produced.outcomes.append(f"{kind} {self.ask('POST', f'/v1/{kind}', body)['code']}")

    def by_tcp(self, token: str, path: str = "/v1/status") -> None:
        connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=60)
        connection.request("GET", path, headers={"Authorization": f"Bearer {token}"})
        answer = connection.getresponse()
        self.say(f"by TCP ({len(self.produced.texts)})", answer.read() + str(answer.headers).encode())
        self.produced.outcomes.append(f"TCP {answer.status}")
        connection.close()

    def write_secret(self, name: str) -> None:
        tls = self.node.data / "server/tls"
        context = ssl.create_default_context(cafile=str(tls / "server-ca.crt"))
        context.load_cert_chain(str(tls / "client-admin.crt"), str(tls / "client-admin.key"))
        connection = http.client.HTTPSConnection("127.0.0.1", 6443, timeout=30, context=context)
        value = base64.b64encode(SECRET.encode()).decode()
        body = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": {"password": value}}
        connection.request("POST", "/api/v1/namespaces/default/secrets", json.dumps(body))
        assert connection.getresponse().status == 201
        connection.close()

    def live(self) -> None:
        node = self.node
        self.write_secret("top")
        self.start_agent()
        self.ask_everything()
        wait_for(lambda: _open(PORT), "the port is open")
        for token in (API_TOKEN, WRONG_TOKEN, "", f"{API_TOKEN} {WRONG_TOKEN}"):
            self.by_tcp(token)
        self.by_tcp(WRONG_TOKEN, f"/v1/status?token={WRONG_TOKEN}")
        self.refused("migrate", {"token": JOIN_PASSWORD})
        token = f"K10{'ab' * 32}::server:{JOIN_PASSWORD}"
        self.refused("join", {"server": "https://127.0.0.1:1", "token": token})
        self.refused("join", {"server": f"https://admin:{JOIN_PASSWORD}@127.0.0.1:1", "token": token})
        config = node.root / "etc/config.yaml"
        usual = config.read_text()
        endpoint = f"mysql://k3s:{DATABASE_PASSWORD}@tcp(10.0.0.9:3306)/k3s"
        config.write_text(
            f"{usual}datastore-endpoint: {endpoint}\ntoken: {JOIN_PASSWORD}\nagent-token: {JOIN_PASSWORD}\n"
        )
        self.ask_everything()
        self.refused("migrate", {})
        config.write_text(usual)

        node.change_faults({"alter_keys": [KEY]})
        assert self.operate("migrate", {}) == "rolled_back"
        node.stop_agent()
        node.change_faults({})
        self.start_agent("before do prove")
        node.begin("migrate", PATIENT)
        wait_for(lambda: not node.agent_lives(), "the agent has died")
        rescue = node.run_rescue(wrap=self.traced(UNIT))
        self.say("rescue", rescue.stdout + rescue.stderr)
        self.produced.outcomes.append(f"rescue {rescue.returncode}")

        self.start_agent()
        self.ask_everything()
        assert self.operate("migrate", {}) == "succeeded"
        self.write_secret("later")
        self.refused("rollback", {"writes": "discard"})
        self.ask_everything()
        assert self.operate("rollback", DISCARD) == "succeeded"
        self.ask_everything()
        self.bundle()
        node.stop_agent()

    def bundle(self) -> None:
        """As root makes it, on this server, of a k3s that is careless in its journal; its texts."""
        node, target = self.node, self.node.root / "bundle.tar.gz"
        careless = f"started with --token {self.produced.secrets['its password']}; {API_TOKEN}"
        entry = {"unit": K3S, "pid": 1, "message": careless, "ts": 0, "invocation_id": ""}
        with node.systemd.log.open("a") as journal:
            journal.write(json.dumps(entry) + "\n")
        python = f'#!/bin/sh\ncd {REPOSITORY} && exec {sys.executable} -m "k3s_ha_agent" --config {node.config} "$@"\n'
        (node.root / "bin/k3s-ha-agent").write_text(python)
        (node.root / "bin/k3s-ha-agent").chmod(0o755)
        ctl = node.root / "bin/k3s-ha-agentctl"
        ctl.write_text("import sys\nfrom k3s_ha_agent.ctl.main import main\nsys.exit(main())\n")
        command = [sys.executable, str(ctl), "--socket", str(node.root / "run/api.sock"), "support-bundle"]
        path = f"{node.root}/bin:{os.environ['PATH']}"
        environment = {**os.environ, "PATH": path, "PYTHONPATH": str(REPOSITORY)}
        done = subprocess.run([*command, "--file", target], env=environment, capture_output=True, check=False)
        assert done.returncode == 0, done
        self.say("support-bundle says", done.stdout + done.stderr)
        with tarfile.open(target) as archive:
            for member in archive.getmembers():
                file = archive.extractfile(member)
                assert file is not None
                self.say(f"bundle: {member.name.partition('/')[2]}", file.read())

    # --- what came of it ---------------------------------------------------------------------------

    def gather(self) -> Produced:
        node, produced = self.node, self.produced
        self.say("agent's log", (node.root / "agent.log").read_bytes())
        self.say("journal of the rescue", "\n".join(node.systemd.messages(RESCUE_SERVICE)))
        for path in node.root.rglob("*"):
            if not path.is_symlink():
                produced.modes[path] = path.stat().st_mode
            if path.is_file() and not path.is_symlink() and path.parent != self.log:
                produced.texts[f"file {path.relative_to(node.root)}"] = path.read_bytes()
        produced.lives = self._lives
        for log in self.log.iterdir():
            self._read_strace(log)
        return produced

    def _read_strace(self, log: Path) -> None:
        text = log.read_text(errors="replace")
        for line in text.splitlines():
            call = re.match(r"\d+ +(\w+)\(", line)
            if call is None:
                continue
            if call[1] == "execve":
                self.produced.programs.append(line)
            elif limit := re.search(r"RLIMIT_CORE, \{rlim_cur=(\w+), rlim_max=(\w+)\}", line):
                self.produced.core.append(limit.groups())
            elif call[1] == "memfd_create":
                self.produced.made.append((line, 0o600))
            elif mode := re.search(r'(?:O_CREAT|O_TMPFILE|mkdir(?:at)?\().*"?, (0\d+)\) += (?!-1)', line):
                (umask,) = unit_lines(AGENT_UNIT, "UMask")
                self.produced.made.append((line, int(mode[1], 8) & ~int(umask, 8)))


def _open(port: int) -> bool:
    with contextlib.suppress(OSError), contextlib.closing(http.client.HTTPConnection("127.0.0.1", port)) as connection:
        connection.connect()
        return True
    return False


def live() -> Produced:
    with own_network("10.99.0.11"):
        settings = {"log_level": "debug", "listen_tcp": f"127.0.0.1:{PORT}"}
        with quick_node(settings=settings) as node:
            token = node.root / "etc/api-token"
            token.write_text(API_TOKEN + "\n")
            token.chmod(0o600)
            node.config.write_text(node.config.read_text() + f"tcp_token_file: {token}\n")
            life = Life(node)
            life.live()
            return life.gather()
