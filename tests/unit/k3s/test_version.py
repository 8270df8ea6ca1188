from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from k3s_ha_agent.errors import ConfigurationError
from k3s_ha_agent.k3s.version import Version, from_binary_output, migration_gate


def test_order() -> None:
    rising = [
        "v1.21.14+k3s1",
        "v1.22.2-alpha1+k3s1",
        "v1.22.2-rc2+k3s1",
        "v1.22.2-rc10+k3s1",
        "v1.22.2+k3s1",
        "v1.22.2+k3s2",
        "v1.22.2+k3s10",
        "v1.22.10+k3s1",
        "v1.30.0+k3s1",
        "v1.34.3+k3s3",
        "v2.0.0+k3s1",
    ]
    versions = [Version.parse(text) for text in rising]
    falling = versions[::-1]
    assert sorted(falling) == versions
    assert len(set(versions)) == len(versions)
    assert all(a < b for a, b in itertools.pairwise(versions))
    assert Version.parse("1.22.2") == Version.parse("v1.22.2")


def test_recorded_version(recordings: Path) -> None:
    told = json.loads((recordings / "version.json").read_text())["gitVersion"]
    version = Version.parse(told)
    assert version.release == (1, 22, 2)
    assert str(version) == "v1.22.2-rc2+k3s1"
    assert migration_gate(version) is None, "it migrated when it was recorded"


def test_output_of_the_binary() -> None:
    text = "k3s version v1.34.1+k3s1 (24fc436e)\ngo version go1.24.6\n"
    assert from_binary_output(text) == Version.parse("v1.34.1+k3s1")
    assert from_binary_output("k3s version v1.22.4+k3s1 (HEAD)\n").release == (1, 22, 4)
    for text in ("", "k3s: not found", "k3s version dev (HEAD)"):
        with pytest.raises(ConfigurationError):
            from_binary_output(text)


@pytest.mark.parametrize("text", ["", "v1.22", "1.2.3.4", "v1.x.3", "latest", "v1.22.2+rke2+k3s"])
def test_no_version(text: str) -> None:
    with pytest.raises(ConfigurationError):
        Version.parse(text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("v1.22.1+k3s1", "v1.22.2 or later"),
        ("v1.21.99+k3s1", "v1.22.2 or later"),
        ("v1.22.2+k3s1", None),
        ("v1.30.12+k3s1", None),
        ("v1.30.13+k3s1", "v1.30.14"),
        ("v1.30.13-rc1+k3s1", "v1.30.14"),
        ("v1.30.14+k3s1", None),
        ("v1.31.9+k3s1", "v1.31.10"),
        ("v1.31.10+k3s1", None),
        ("v1.32.5+k3s1", "v1.32.6"),
        ("v1.33.1+k3s1", "v1.33.2"),
        ("v1.33.0+k3s1", None),
        ("v1.35.1+k3s1", None),
    ],
)
def test_gate(text: str, reason: str | None) -> None:
    told = migration_gate(Version.parse(text))
    assert (told is None) == (reason is None)
    if reason is not None:
        assert told is not None
        assert reason in told
        assert text in told
