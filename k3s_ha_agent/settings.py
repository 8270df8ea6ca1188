"""What an administrator may set: ``/etc/k3s-ha-agent/config.yaml``, then ``conf.d/*.yaml`` by name.

A later file wins per key. Everything has a default, so that no file needs to exist. A key this
agent does not know is an error and not a warning: a misspelt limit that is silently not in force
would be noticed only when it was needed. Durations are written like ``"30s"`` and are seconds in
the program.
"""

from __future__ import annotations

import dataclasses
import functools
import ipaddress
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from k3s_ha_agent.durations import format_duration, parse_duration
from k3s_ha_agent.errors import ConfigurationError

CONFIG = Path("/etc/k3s-ha-agent/config.yaml")
CONF_D = Path("/etc/k3s-ha-agent/conf.d")
LOG_LEVELS = ("debug", "info", "warning", "error")

RESCUE_SERVICE = "k3s-ha-agent-rescue.service"
RESCUE_TIMER = "k3s-ha-agent-rescue.timer"
GATE = "zz-k3s-ha-agent-gate.conf"
PLAIN_PATH = re.compile(r"[A-Za-z0-9._/@+-]+")
"""What the gate can name: its command is read by systemd and by a shell, and quoted for neither."""

_UNIT = re.compile(r"[A-Za-z0-9:_.\\@-]+\.service")
_LISTEN = re.compile(r"(\d+(?:\.\d+){3}|\[[0-9A-Fa-f:.]+\]):(\d{1,5})")
_CERTIFICATE_NAME = re.compile(r"(?:CN|URI):[\x20-\x7e]{1,255}")
_GROUP = re.compile(r"[a-z_][a-z0-9_-]{0,30}\$?")


@dataclasses.dataclass(frozen=True, slots=True)
class Address:
    """An IP address and a port to listen on."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings in force. The YAML keys are the names of the fields."""

    unit: str = "k3s.service"
    """The unit that runs k3s; ``k3s-<name>.service`` after an installation with INSTALL_K3S_NAME."""
    data_dir: Path = Path("/var/lib/rancher/k3s")
    """k3s's data dir, the one that holds ``server/``; must be what ``--data-dir`` of the unit says."""
    k3s_config: Path = Path("/etc/rancher/k3s/config.yaml")
    """k3s's configuration file; our drop-in is written into the directory of this name plus ``.d``."""
    systemd_dir: Path = Path("/etc/systemd/system")
    """Where the gate's drop-in for the unit is written; must outlive a reboot."""
    state_dir: Path = Path("/var/lib/k3s-ha-agent")
    """Records, pre-images and the lock."""
    runtime_dir: Path = Path("/run/k3s-ha-agent")
    """The API's socket."""
    socket_group: str = "k3s-ha"
    """Group of the API's socket: its members may change things."""
    root: Path = Path("/")
    """Prefix for the files of the system that are only read: ``etc/default``, ``etc/sysconfig``,
    ``etc/rancher/node``. Other than ``/`` in tests only."""
    dbus_address: str | None = None
    """D-Bus address of systemd; None is the system bus."""
    migrate_timeout_min: float = 120.0
    """Seconds: the least time allowed for the conversion, whatever the estimate says."""
    role_timeout: float = 60.0
    """Seconds the etcd role may take to appear on the Node after the unit is active. Seen: 2.7 to
    2.9 s (k3s-facts, "Seen" 9)."""
    stability_window: float = 30.0
    """Seconds during which the evidence must stay true before the operation is committed."""
    stop_timeout: float = 90.0
    """Seconds for stopping k3s. Seen: 0.06 s ("Seen" 9); systemd kills after 90 s by default."""
    start_timeout: float = 300.0
    """Seconds for a start without a conversion. Seen: 1.5 to 8 s ("Seen" 9 and 18); the start of a
    large etcd on a slow disk defragments first (M11)."""
    undo_timeout: float = 300.0
    """Seconds for the way back, all steps together."""
    fsync_warn: float = 0.010
    """Seconds: a 99th percentile of fsync above this is warned of (M12)."""
    fsync_refuse: float = 0.100
    """Seconds: above this the migration is refused unless ``accept_slow_disk`` is given (M12)."""
    log_level: str = "info"
    """One of debug, info, warning, error."""
    listen_tcp: Address | None = None
    """Where the API listens on loopback TCP besides its socket, like ``127.0.0.1:9580``; None: nowhere. Only an
    address of the loopback interface is taken. Callers send the token of ``tcp_token_file``."""
    tcp_token_file: Path = Path("/etc/k3s-ha-agent/api-token")
    """The token callers on the TCP port send, 32 characters or more; mode 0600 and owned by root. It
    carries every role. Read again when the file changes."""
    listen_tls: Address | None = None
    """Where the API listens for other machines, like ``0.0.0.0:9581``, with TLS 1.3 and client certificates;
    None: nowhere."""
    tls_certificate: Path = Path("/etc/k3s-ha-agent/tls/server.crt")
    """The agent's certificate with its intermediates, PEM. Read again when one of the TLS files changes."""
    tls_key: Path = Path("/etc/k3s-ha-agent/tls/server.key")
    """Its key, PEM, not readable by group and others."""
    tls_client_ca: Path = Path("/etc/k3s-ha-agent/tls/client-ca.crt")
    """The authorities whose client certificates are taken, PEM. The system's are not."""
    tls_client_crl: Path | None = None
    """Revocation lists of those authorities, PEM; None: revocation is not checked. With lists every
    connection is refused once one of them has expired."""
    tls_admin: tuple[str, ...] = ()
    """Names of client certificates that may do everything: ``CN:name`` for the subject's common name or
    ``URI:name`` for a subject alternative name; ``*`` stands for any characters."""
    tls_read: tuple[str, ...] = ()
    """Names of client certificates that may read everything, metrics included."""
    tls_metrics: tuple[str, ...] = ()
    """Names of client certificates that may read ``/metrics`` only."""

    @property
    def gate(self) -> Path:
        """The gate's drop-in for the unit, there only during an operation's window."""
        return self.systemd_dir / f"{self.unit}.d" / GATE


def load(path: Path = CONFIG, conf_d: Path = CONF_D) -> Settings:
    """The settings of the files that exist.

    Reads a few small files, so it may be called at start-up only. ConfigurationError names the
    file and the key.
    """
    files = [path] if path.exists() else []
    if conf_d.is_dir():
        files += sorted(f for f in conf_d.iterdir() if f.suffix in (".yaml", ".yml") and f.is_file())
    try:
        return parse([(str(file), file.read_text()) for file in files])
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"The settings cannot be read: {error}.") from error


def shown(settings: Settings) -> dict[str, Any]:
    """The settings as they would be written in a file."""
    found: dict[str, Any] = {}
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if isinstance(value, float):
            value = format_duration(value)
        elif isinstance(value, Path | Address):
            value = str(value)
        found[field.name] = list(value) if isinstance(value, tuple) else value
    return found


def parse(files: list[tuple[str, str]]) -> Settings:
    """The settings of (name, text) pairs, later ones winning per key."""
    values: dict[str, Any] = {}
    origin: dict[str, str] = {}
    for name, text in files:
        for key, value in _mapping(name, text).items():
            values[key] = _value(name, key, value)
            origin[key] = name
    settings = Settings(**values)
    if settings.fsync_warn > settings.fsync_refuse:
        file = origin.get("fsync_warn") or origin["fsync_refuse"]
        raise ConfigurationError(
            f"{file}: fsync_warn ({format_duration(settings.fsync_warn)}) is above fsync_refuse "
            f"({format_duration(settings.fsync_refuse)}).",
            next_step="Set fsync_warn to at most fsync_refuse.",
        )
    if settings.listen_tls is not None and not (settings.tls_admin or settings.tls_read or settings.tls_metrics):
        raise ConfigurationError(
            f"{origin['listen_tls']}: listen_tls is set, but no certificate is given a role.",
            next_step='Name at least one, for example tls_read: ["CN:fleet-*"].',
        )
    return settings


def _mapping(name: str, text: str) -> Mapping[str, Any]:
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f" in line {where.line + 1}" if where is not None else ""
        raise ConfigurationError(f"{name} is not valid YAML{line}: {getattr(error, 'problem', error)}.") from error
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise ConfigurationError(f"{name} holds a {type(document).__name__}, not a mapping of settings.")
    return document


def _value(name: str, key: str, value: Any) -> Any:
    convert = _CONVERT.get(key)
    if convert is None:
        raise ConfigurationError(
            f"{name}: {key!r} is not a setting of this agent.", next_step=f"The settings are: {', '.join(_CONVERT)}."
        )
    try:
        return convert(value)
    except ValueError as error:
        raise ConfigurationError(f"{name}: {key}: {error}.") from error


def _duration(value: Any) -> float:
    if not isinstance(value, str):
        raise ValueError(f'{value!r} is not a duration; write it with its unit, like "30s"')
    seconds = parse_duration(value)
    if seconds <= 0:
        raise ValueError(f"{value!r} is no time at all")
    return seconds


def _path(value: Any) -> Path:
    if not isinstance(value, str) or not value.startswith("/"):
        raise ValueError(f"{value!r} is not an absolute path")
    if ".." in Path(value).parts:
        raise ValueError(f"{value!r} has a '..' in it")
    return Path(value)


def _matching(pattern: re.Pattern[str], what: str) -> Callable[[Any], str]:
    def convert(value: Any) -> str:
        if not isinstance(value, str) or not pattern.fullmatch(value):
            raise ValueError(f"{value!r} is not {what}")
        return value

    return convert


def _listen(value: Any, *, loopback: bool) -> Address | None:
    if value is None:
        return None
    match = _LISTEN.fullmatch(value) if isinstance(value, str) else None
    try:
        if match is None:
            raise ValueError
        address = ipaddress.ip_address(match[1].strip("[]"))
        found = Address(str(address), int(match[2]))
    except ValueError:
        raise ValueError(f"{value!r} is not an address and a port, like 127.0.0.1:9580 or [::1]:9580") from None
    if not 0 < found.port < 65536:
        raise ValueError(f"{value!r} has no port from 1 to 65535")
    if loopback and not address.is_loopback:
        raise ValueError(f"{value!r} is not on the loopback interface; other machines use listen_tls")
    return found


def _names(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(v, str) and _CERTIFICATE_NAME.fullmatch(v) for v in value):
        raise ValueError(f'{value!r} is not a list of names of certificates like ["CN:fleet-*", "URI:spiffe://x/y"]')
    return tuple(value)


def _path_or_none(value: Any) -> Path | None:
    return None if value is None else _path(value)


def _address(value: Any) -> str | None:
    if value is None or (isinstance(value, str) and "=" in value and ":" in value):
        return value
    raise ValueError(f"{value!r} is not a D-Bus address such as unix:path=/run/dbus/system_bus_socket")


def _log_level(value: Any) -> str:
    if value not in LOG_LEVELS:
        raise ValueError(f"{value!r} is not one of {', '.join(LOG_LEVELS)}")
    return str(value)


_BY_TYPE: Mapping[str, Callable[[Any], Any]] = {"Path": _path, "float": _duration}
_BY_NAME: Mapping[str, Callable[[Any], Any]] = {
    "unit": _matching(_UNIT, "the name of a service, like k3s.service"),
    "socket_group": _matching(_GROUP, "the name of a group"),
    "dbus_address": _address,
    "log_level": _log_level,
    "listen_tcp": functools.partial(_listen, loopback=True),
    "listen_tls": functools.partial(_listen, loopback=False),
    "tls_client_crl": _path_or_none,
    "tls_admin": _names,
    "tls_read": _names,
    "tls_metrics": _names,
}
_CONVERT: Mapping[str, Callable[[Any], Any]] = {
    field.name: _BY_NAME[field.name] if field.name in _BY_NAME else _BY_TYPE[str(field.type)]
    for field in dataclasses.fields(Settings)
}
