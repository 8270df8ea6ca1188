"""No secret is in anything that is produced, but in the copies that are for root alone; no file is for others."""

from __future__ import annotations

import base64
import fnmatch
import re
import stat
from pathlib import Path

import pytest

from tests.crash.installed import UNIT, unit_lines
from tests.crash.secrets_run import AGENT_UNIT, Produced, found_in, live

K3S_OWN = ("file k3s/*",)
"""k3s's, and the quarantine below it, which holds k3s's files as they were."""
THEIRS = (*K3S_OWN, "file etc/api-token", "file journal.jsonl", "file bundle.tar.gz")
COPIES = tuple(f"file state/backups/*/{name}" for name in ("sealed.db", "etcd-snapshot.db", "files/*"))
"""Where the secrets must be, or nothing could be put back."""


@pytest.fixture(scope="module")
def produced() -> Produced:
    return live()


def matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for pattern in patterns)


def test_all_of_it_happened(produced: Produced) -> None:
    assert produced.outcomes == [
        "TCP 200", "TCP 401", "TCP 401", "TCP 401", "TCP 401",
        "migrate invalid-body", "join preflight-failed", "join invalid-body", "migrate preflight-failed",
        "migrate rolled_back", "rescue 0", "migrate succeeded", "rollback lost-writes-not-confirmed",
        "rollback succeeded",
    ]  # fmt: skip


def test_they_are_where_they_must_be(produced: Produced) -> None:
    """And the search finds them: nothing is proven by a search that cannot."""
    copies = {w: t for w, t in produced.texts.items() if matches(w, COPIES)}
    held = {name for text in copies.values() for name in found_in(text, produced.secrets)}
    assert {"k3s's token", "its password", "a Secret's value"} <= held, sorted(copies)


def test_they_are_nowhere_else(produced: Produced) -> None:
    rest = {w: t for w, t in produced.texts.items() if not matches(w, THEIRS) and not matches(w, COPIES)}
    for expected in ("agent's log", "rescue", "file state/audit.jsonl", "bundle: operations.json"):
        assert rest[expected], expected
    assert b"started with --token" in rest["bundle: journal/k3s.service.log"]
    for kind in ("record.json", "events.jsonl", "manifest.json"):
        assert any(where.endswith(kind) for where in rest), kind
    assert not produced.holding(rest)


def test_no_program_was_given_one(produced: Produced) -> None:
    assert any("journalctl" in line for line in produced.programs), "no program was seen being started"
    assert not produced.holding({line[:120]: line.encode() for line in produced.programs})


def test_what_lies_there_is_for_root_alone(produced: Produced) -> None:
    state = produced.root / "state"
    ours = {path: mode for path, mode in produced.modes.items() if path == state or state in path.parents}
    assert len(ours) > 20
    kept = re.compile(r"/backups/[^/]+/files(/.*)")
    for path, mode in ours.items():
        copy = kept.search(str(path))
        if copy is not None and stat.S_ISREG(mode):
            assert mode == produced.modes[Path(copy[1])], f"{path}: copies keep their mode, in directories of 0700"
        else:
            assert stat.filemode(mode) in ("drwx------", "-rw-------"), path


def test_what_was_made_was_for_root_alone_from_the_first(produced: Produced) -> None:
    """Also what lay there for a moment only: there is no moment in which others may open it."""
    assert len(produced.made) > 100
    wide = [line[:200] for line, mode in produced.made if mode & 0o077]
    assert not wide


def test_no_core_is_dumped(produced: Produced) -> None:
    for unit in (AGENT_UNIT, UNIT):
        assert unit_lines(unit, "LimitCORE") == ["0"], unit
    assert produced.core == [("0", "0")] * produced.lives


def test_the_search_finds_what_is_hidden() -> None:
    secrets = {"it": "correct-horse-battery"}
    for before in ("", "a", "ab", "abc", "user:"):
        hidden = base64.b64encode(f"{before}correct-horse-battery!".encode())
        assert found_in(b"x" + hidden + b"y", secrets) == ["it"]
    assert found_in(b"correct-horse-battery".hex().encode(), secrets) == ["it"]
    assert not found_in(b"correct-horse", secrets)
