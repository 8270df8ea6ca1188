"""``support-bundle``: what a report of a problem needs, in one file, without secrets.

Made of what the agent answers, of the files this user can read, and of what systemd says. What cannot be had is
said in the bundle and is no error: a bundle is wanted most when something does not work.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from k3s_ha_agent import __version__
from k3s_ha_agent.ctl.client import CHECKS_TIMEOUT, Client, Problem
from k3s_ha_agent.ctl.config import check
from k3s_ha_agent.ctl.scrub import Scrubber, secrets_of
from k3s_ha_agent.errors import AgentError

COMMAND_TIMEOUT = 120.0
BIGGEST = 16 * 1024 * 1024
"""Bytes of one file; of more the end is taken."""
AGENT_UNITS = ("k3s-ha-agent.service", "k3s-ha-agent-rescue.service")
TARGETS = {
    "status.json": "/v1/status",
    "preflight.json": "/v1/preflight",
    "operations.json": "/v1/operations",
    "backups.json": "/v1/backups",
    "metrics.txt": "/metrics",
}


def write(target: Path | None, client: Client, *, lines: int) -> Path:
    """Write the bundle, mode 0600; where it is. AgentError when it cannot be written."""
    name = time.strftime("k3s-ha-agent-support-%Y%m%dT%H%M%SZ", time.gmtime())
    target = target or Path(f"{name}.tar.gz")
    try:
        fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise AgentError(
            f"{target} cannot be written: {error.strerror}.", next_step="Name another file with --file."
        ) from error
    with os.fdopen(fd, "wb") as file, tarfile.open(fileobj=file, mode="w:gz") as archive:
        for path, text in collect(client, lines):
            data = text.encode(errors="replace")
            member = tarfile.TarInfo(f"{name}/{path}")
            member.size, member.mode, member.mtime = len(data), 0o600, int(time.time())
            archive.addfile(member, io.BytesIO(data))
    return target


def collect(client: Client, lines: int) -> Iterator[tuple[str, str]]:
    """Names and texts, scrubbed."""
    settings = _settings()
    given = settings.get("settings") or {}
    data_dir = Path(given.get("data_dir") or "/var/lib/rancher/k3s")
    state_dir = Path(given.get("state_dir") or "/var/lib/k3s-ha-agent")
    unit = str(given.get("unit") or "k3s.service")
    token_file = Path(given.get("tcp_token_file") or "/etc/k3s-ha-agent/api-token")
    scrub = Scrubber(secrets_of(data_dir, token_file))
    parts: list[tuple[str, str]] = [("settings.json", json.dumps(settings, indent=2)), ("about.txt", _about())]
    parts += [(name, _answer(client, target)) for name, target in TARGETS.items()]
    for each in (*AGENT_UNITS, unit):
        parts.append((f"units/{each}.txt", _command("systemctl", "cat", "--no-pager", each)))
        parts.append((f"units/{each}.show.txt", _command("systemctl", "show", "--no-pager", each)))
        journal = ("--no-pager", "--output=short-iso-precise", f"--lines={lines}", f"--unit={each}")
        parts.append((f"journal/{each}.log", _command("journalctl", *journal)))
    parts += _files(state_dir)
    for name, text in parts:
        yield name, scrub(text)


def _settings() -> dict[str, Any]:
    try:
        return check()
    except AgentError as error:
        return {"ok": False, "problems": [{"detail": str(error)}]}


def _about() -> str:
    kernel = " ".join(os.uname())
    try:
        release = Path("/etc/os-release").read_text()
    except OSError as error:
        release = f"(not to be had: {error.strerror})\n"
    return f"k3s-ha-agentctl {__version__}\n{kernel}\n\n{release}"


def _answer(client: Client, target: str) -> str:
    try:
        if target == "/metrics":
            return client.text(target)
        return json.dumps(client.get(target, timeout=CHECKS_TIMEOUT), indent=2)
    except Problem as problem:
        return json.dumps(problem.document, indent=2)
    except AgentError as error:
        return f"(not to be had: {error})\n"


def _command(*command: str) -> str:
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=COMMAND_TIMEOUT
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"(not to be had: {error})\n"
    return done.stdout + (f"(stderr: {done.stderr})\n" if done.stderr else "")


def _files(state_dir: Path) -> Iterator[tuple[str, str]]:
    """Records, events and the audit log; of the pre-images the manifests only: the rest is the datastore itself."""
    patterns = ("operations/*/record.json", "operations/*/events.jsonl", "audit.jsonl", "backups/*/manifest.json")
    for pattern in patterns:
        for path in sorted(state_dir.glob(pattern)):
            if path.is_symlink() or not path.is_file():
                continue
            yield f"state/{path.relative_to(state_dir)}", _end_of(path)
    if not os.access(state_dir, os.R_OK | os.X_OK):
        yield "state/README", f"{state_dir} cannot be read by this user; run it as root for the records.\n"


def _end_of(path: Path) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - BIGGEST))
            return file.read(BIGGEST).decode(errors="replace")
    except OSError as error:
        return f"(not to be had: {error.strerror})\n"
