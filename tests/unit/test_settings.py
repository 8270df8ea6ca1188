"""The settings: every default, every key, and what is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import yaml

from k3s_ha_agent.errors import ConfigurationError
from k3s_ha_agent.settings import Address, Settings, load, parse, shown

EVERY_KEY = {
    "unit": ("k3s-lab.service", "k3s-lab.service"),
    "data_dir": ("/mnt/k3s", Path("/mnt/k3s")),
    "k3s_config": ("/etc/k3s.yaml", Path("/etc/k3s.yaml")),
    "systemd_dir": ("/run/systemd/system", Path("/run/systemd/system")),
    "state_dir": ("/srv/agent", Path("/srv/agent")),
    "runtime_dir": ("/run/agent", Path("/run/agent")),
    "socket_group": ("admins", "admins"),
    "root": ("/mnt/root", Path("/mnt/root")),
    "dbus_address": ("unix:path=/run/bus", "unix:path=/run/bus"),
    "migrate_timeout_min": ("5m", 300.0),
    "role_timeout": ("90s", 90.0),
    "stability_window": ("1m30s", 90.0),
    "stop_timeout": ("2m", 120.0),
    "start_timeout": ("10m", 600.0),
    "undo_timeout": ("7m", 420.0),
    "fsync_warn": ("20ms", 0.02),
    "fsync_refuse": ("200ms", 0.2),
    "log_level": ("debug", "debug"),
    "listen_tcp": ("[::1]:9590", Address("::1", 9590)),
    "tcp_token_file": ("/srv/token", Path("/srv/token")),
    "listen_tls": ("0.0.0.0:9591", Address("0.0.0.0", 9591)),
    "tls_certificate": ("/srv/a.crt", Path("/srv/a.crt")),
    "tls_key": ("/srv/a.key", Path("/srv/a.key")),
    "tls_client_ca": ("/srv/ca.crt", Path("/srv/ca.crt")),
    "tls_client_crl": ("/srv/crl.pem", Path("/srv/crl.pem")),
    "tls_admin": (["CN:fleet-*"], ("CN:fleet-*",)),
    "tls_read": (["URI:spiffe://x/y", "CN:a b"], ("URI:spiffe://x/y", "CN:a b")),
    "tls_metrics": (["CN:prometheus"], ("CN:prometheus",)),
}


def test_no_file_gives_the_defaults(tmp_path: Path) -> None:
    assert load(tmp_path / "config.yaml", tmp_path / "conf.d") == Settings()
    assert Settings().gate == Path("/etc/systemd/system/k3s.service.d/zz-k3s-ha-agent-gate.conf")


def test_every_setting_can_be_set() -> None:
    assert set(EVERY_KEY) == {field.name for field in dataclasses.fields(Settings)}
    settings = parse([("config.yaml", yaml.safe_dump({key: text for key, (text, _) in EVERY_KEY.items()}))])
    assert {key: getattr(settings, key) for key in EVERY_KEY} == {key: value for key, (_, value) in EVERY_KEY.items()}
    assert all(getattr(settings, key) != getattr(Settings(), key) for key in EVERY_KEY)


def test_what_is_shown_can_be_read_again() -> None:
    for text in ({}, {key: text for key, (text, _) in EVERY_KEY.items()}):
        settings = parse([("a", yaml.safe_dump(text))])
        assert parse([("b", yaml.safe_dump(shown(settings)))]) == settings


def test_later_files_win_per_key(tmp_path: Path) -> None:
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "config.yaml").write_text("unit: a.service\nstop_timeout: 1s\nrole_timeout: 1s\n")
    (tmp_path / "conf.d/20.yaml").write_text("unit: c.service\n")
    (tmp_path / "conf.d/10.yml").write_text("unit: b.service\nstop_timeout: 2s\n")
    (tmp_path / "conf.d/99.yaml.bak").write_text("unit: never.service\n")
    (tmp_path / "conf.d/empty.yaml").write_text("# nothing\n")
    settings = load(tmp_path / "config.yaml", tmp_path / "conf.d")
    assert (settings.unit, settings.stop_timeout, settings.role_timeout) == ("c.service", 2.0, 1.0)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("stabilty_window: 30s", ("stabilty_window", "stability_window")),
        ("stop_timeout: 30", ("stop_timeout", "30s")),
        ("stop_timeout: 30x", ("stop_timeout",)),
        ("stop_timeout: 0s", ("no time",)),
        ("stop_timeout: -5s", ("stop_timeout",)),
        ("data_dir: var/lib", ("absolute",)),
        ("data_dir: /var/../etc", ("'..'",)),
        ("data_dir: [/a]", ("data_dir",)),
        ("unit: k3s", ("unit",)),
        ("unit: ../x.service", ("unit",)),
        ("socket_group: 'a b'", ("socket_group",)),
        ("dbus_address: nonsense", ("dbus_address",)),
        ("log_level: loud", ("log_level", "info")),
        ("listen_tcp: 0.0.0.0:9580", ("listen_tcp", "loopback", "listen_tls")),
        ("listen_tcp: 192.0.2.1:9580", ("loopback",)),
        ('listen_tcp: "[::]:9580"', ("loopback",)),
        ("listen_tcp: localhost:9580", ("listen_tcp", "127.0.0.1:9580")),
        ("listen_tcp: 127.0.0.1", ("listen_tcp",)),
        ("listen_tcp: 127.0.0.1:0", ("port",)),
        ("listen_tcp: 127.0.0.1:65536", ("port",)),
        ("listen_tcp: 9580", ("listen_tcp",)),
        ("listen_tcp: true", ("listen_tcp",)),
        ("listen_tls: n1.example:9581", ("listen_tls",)),
        ("listen_tls: 0.0.0.0:9581", ("listen_tls", "role", "tls_read")),
        ("tls_admin: CN:fleet", ("tls_admin", "list")),
        ("tls_admin: [fleet]", ("tls_admin", "CN:")),
        ("tls_admin: ['CN:']", ("tls_admin",)),
        ("tls_client_crl: crl.pem", ("absolute",)),
        ("fsync_warn: 1s", ("fsync_warn", "fsync_refuse")),
        ("- a list", ("mapping",)),
        ("a: [", ("YAML", "line")),
        ("1: 2", ("1",)),
    ],
)
def test_what_is_wrong_is_said_with_its_file(text: str, words: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(text + "\n")
    with pytest.raises(ConfigurationError) as error:
        load(tmp_path / "config.yaml", tmp_path / "conf.d")
    for word in (str(tmp_path / "config.yaml"), *words):
        assert word in str(error.value)


def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(ConfigurationError):
        load(tmp_path / "config.yaml", tmp_path / "conf.d")
