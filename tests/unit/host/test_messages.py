"""Every entry with an id has a text, in words journald's own tool takes."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

from k3s_ha_agent.host.journal_log import fields_of
from k3s_ha_agent.host.messages import Message

ROOT = Path(__file__).resolve().parents[3]
CATALOG = ROOT / "systemd/k3s-ha-agent.catalog"
PACKAGE = ROOT / "k3s_ha_agent"


def texts() -> dict[str, str]:
    parts = re.split(r"^-- ([0-9a-f]+)\n", CATALOG.read_text(), flags=re.MULTILINE)[1:]
    found = dict(zip(parts[::2], parts[1::2], strict=True))
    assert len(found) == len(parts) // 2, "an id stands there twice"
    return found


def test_every_id_has_its_text() -> None:
    assert list(texts()) == [message.value for message in Message]
    for identity, text in texts().items():
        assert re.fullmatch(r"[0-9a-f]{32}", identity)
        assert re.match(r"Subject: .+\nDefined-By: k3s-ha-agent\nDocumentation: man:[\w.-]+\([158]\)\n\n.+", text)


def calls() -> Iterator[tuple[str, set[str]]]:
    """The name of the message and the fields of every call that says one."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                for given in [*node.args, *(k.value for k in node.keywords)]:
                    if isinstance(given, ast.Attribute) and ast.unparse(given.value) == "Message":
                        # LiveRun.decide adds these two itself.
                        by_itself = {"operation", "kind"} if ast.unparse(node.func).endswith("decide") else set()
                        yield given.attr, by_itself | {k.arg for k in node.keywords if k.arg}


def test_fields_in_the_texts_are_fields_of_the_entries() -> None:
    found = list(calls())
    assert {name for name, _ in found} == {m.name for m in Message}
    for name, fields in found:
        shown = {field.lower() for field in re.findall(r"@KSHA_(\w+)@", texts()[Message[name]])}
        assert shown <= fields, name


def test_fields_in_the_texts_are_replaced() -> None:
    """journalctl does so for names of capital letters and "_" only (systemd, src/basic/replace-var.c)."""
    shown = re.findall(r"@([^@\s]*)@", CATALOG.read_text())
    assert {"KSHA_OPERATION", "KSHA_KIND", "KSHA_STEP"} <= set(shown)
    assert [name for name in shown if not re.fullmatch(r"[A-Z_]+", name)] == []


def test_commands_in_the_texts_exist() -> None:
    from k3s_ha_agent.ctl.arguments import build_parser

    help_text = build_parser().format_help()
    for command in set(re.findall(r"k3s-ha-agentctl (\w[\w-]*)", CATALOG.read_text())):
        assert re.search(rf"^    {command} ", help_text, re.MULTILINE), command


def test_journalctl_takes_them(tmp_path: Path) -> None:
    """journald's own compiler, on a root of the test's own."""
    directory = tmp_path / "usr/lib/systemd/catalog"
    directory.mkdir(parents=True)
    (directory / CATALOG.name).write_bytes(CATALOG.read_bytes())
    (tmp_path / "var/lib/systemd/catalog").mkdir(parents=True)
    made = subprocess.run(
        ["journalctl", f"--root={tmp_path}", "--update-catalog"], capture_output=True, text=True, timeout=60
    )
    assert made.returncode == 0 and made.stderr == "", made.stderr
    listed = subprocess.run(
        ["journalctl", f"--root={tmp_path}", "--list-catalog"], capture_output=True, text=True, timeout=60, check=True
    )
    assert {line.split()[0] for line in listed.stdout.splitlines()} == {m.value for m in Message}


def test_the_id_is_journalds_own_field() -> None:
    fields = fields_of("info", {"event": "x", "message_id": Message.READY, "operation": "op1"})
    assert fields["MESSAGE_ID"] == Message.READY.value
    assert "KSHA_MESSAGE_ID" not in fields
    assert "MESSAGE_ID" not in fields_of("info", {"event": "x", "message_id": None})
