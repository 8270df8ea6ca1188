"""The configuration file that is shipped shows every setting, with the default that is in force."""

from __future__ import annotations

import dataclasses
import re

import pytest
import yaml

from k3s_ha_agent.settings import Settings, parse
from tests.packaging.build import CHECKOUT

TEXT = (CHECKOUT / "packaging/config.yaml").read_text()
SHOWN = re.findall(r"^#([a-z0-9_]+): (.+)$", TEXT, re.MULTILINE)
FOR_TESTS = {"root"}


def test_as_shipped_it_sets_nothing() -> None:
    assert yaml.safe_load(TEXT) is None
    assert parse([("config.yaml", TEXT)]) == Settings()


def test_every_setting_is_shown_once() -> None:
    names = [name for name, _ in SHOWN]
    assert sorted(names) == sorted({field.name for field in dataclasses.fields(Settings)} - FOR_TESTS)


@pytest.mark.parametrize(("name", "value"), SHOWN)
def test_what_is_shown_is_the_default(name: str, value: str) -> None:
    assert parse([("config.yaml", f"{name}: {value}\n")]) == Settings()


def test_with_every_hash_taken_away_it_is_valid() -> None:
    text = re.sub(r"^#(?=[a-z0-9_]+: )", "", TEXT, flags=re.MULTILINE)
    assert set(yaml.safe_load(text)) == {name for name, _ in SHOWN}
    assert parse([("config.yaml", text)]) == Settings()


def test_lines_are_either_settings_or_prose() -> None:
    for line in TEXT.splitlines():
        assert not line or line.startswith("# ") or re.fullmatch(r"#[a-z0-9_]+: .+", line), line
