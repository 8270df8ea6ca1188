"""``fleet.yaml``: which clusters there are, how to reach their agents, and in what order to go.

A key that is not known is an error: a misspelt limit that is silently not in force would be noticed
only when it was needed. Paths are relative to the file; durations are written like ``"30s"``.
"""

from __future__ import annotations

import dataclasses
import urllib.parse
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from k3s_ha_agent.errors import ConfigurationError
from k3s_ha_agent.fleet.sections import Loader, Section, absolute, boolean, count, k3s_url, names, seconds, text


@dataclasses.dataclass(frozen=True, slots=True)
class Server:
    name: str
    agent: str
    """``https://host:port``, ``http://127.0.0.1:port`` or ``unix:/path``."""
    k3s: str | None
    """``https://host:6443`` as other servers reach it; needed for the first server of several."""
    bearer_token_file: Path | None = None
    tunnel_to: str | None = None
    """``listen_tcp`` of the agent, when ``agent`` is the local end of a tunnel to it."""


@dataclasses.dataclass(frozen=True, slots=True)
class Cluster:
    """The first server is migrated, the others join it in their order."""

    name: str
    servers: tuple[Server, ...]
    options: Options

    @property
    def first(self) -> Server:
        return self.servers[0]


@dataclasses.dataclass(frozen=True, slots=True)
class Options:
    """How operations are asked for. Seconds; None: the agent decides."""

    migrate_timeout: float | None = None
    migrate_stability: float | None = None
    accept_slow_disk: bool | None = None
    join_timeout: float | None = None
    join_stability: float | None = None
    token_file: str | None = None
    """A path on the joining server."""
    controller_token_file: Path | None = None
    """A path here; its text is sent in the body."""


@dataclasses.dataclass(frozen=True, slots=True)
class Tls:
    ca: Path
    cert: Path
    key: Path


@dataclasses.dataclass(frozen=True, slots=True)
class Waves:
    canary: tuple[str, ...] = ()
    """Clusters that go before all others; any of them not done stops everything."""
    size: int = 10
    """Clusters of a wave; the next one begins when all of it have ended."""
    at_once: int = 10
    """Clusters worked on at the same time, at most ``size``."""
    stop_after_failures: int = 1
    """Clusters that may fail until no further wave is begun, counted over all waves."""


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
    """How long is waited. Seconds."""

    reach: float = 20.0
    """For an agent that does not answer the first time it is asked."""
    away: float = 600.0
    """For an agent that stops answering while its server is being changed: it may reboot."""
    operation: float = 7200.0
    """For one operation; each has a deadline of its own, at which the agent or the rescue ends it."""
    verify: float = 180.0
    """For all members to be healthy voters, after the last join."""


@dataclasses.dataclass(frozen=True, slots=True)
class Fleet:
    name: str
    """Part of every Idempotency-Key: do not change it while operations run."""
    path: Path
    clusters: tuple[Cluster, ...]
    waves: Waves
    limits: Limits
    tls: Tls | None


def load(path: Path) -> Fleet:
    """Read and check ``fleet.yaml``. ConfigurationError names the key and what it should be. Blocks."""
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} cannot be read: {getattr(error, 'strerror', error)}.") from error
    return parse(text, path)


def parse(text: str, path: Path) -> Fleet:
    """The fleet of a text; ``path`` is where it stands."""
    try:
        value = yaml.load(text, Loader=Loader)  # noqa: S506 - a SafeLoader
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigurationError(f"{path} is not YAML: {' '.join(str(error).split())}.") from error
    top = Section(value, str(path), path.parent)
    defaults = top.section("defaults")
    options = _options(defaults, Options())
    bearer = defaults.file("bearer_token_file")
    defaults.end()
    fleet = Fleet(
        name=top.name("fleet"),
        path=path,
        clusters=tuple(_cluster(one, options, bearer) for one in top.sections("clusters")),
        waves=_waves(top.section("waves")),
        limits=_limits(top.section("limits")),
        tls=_tls(top.section("tls")),
    )
    top.end()
    _check(fleet)
    return fleet


def _cluster(section: Section, defaults: Options, bearer: Path | None) -> Cluster:
    name = section.name("name")
    section.where = f"cluster {name}"
    servers = tuple(_server(one, bearer) for one in section.sections("servers"))
    options = _options(section, defaults)
    section.end()
    if twice := _twice(server.name for server in servers):
        raise ConfigurationError(f"{section.where}: two servers have the name {twice}.")
    if len(servers) > 1:
        if servers[0].k3s is None:
            raise ConfigurationError(
                f"{section.where}: {servers[0].name} needs k3s, its URL for the servers that join it.",
                next_step="Write it like k3s: https://10.0.0.1:6443",
            )
        if (options.token_file is None) == (options.controller_token_file is None):
            raise ConfigurationError(
                f"{section.where}: its joins need either token_file (a path on the joining server) or "
                "controller_token_file (a path here)."
            )
    return Cluster(name, servers, options)


def _server(section: Section, bearer: Path | None) -> Server:
    server = Server(
        name=section.name("name"),
        agent=section.text("agent"),
        k3s=section.optional("k3s", k3s_url),
        bearer_token_file=section.file("bearer_token_file") or bearer,
        tunnel_to=section.optional("tunnel_to", text),
    )
    section.end()
    return server


def _options(section: Section, inherited: Options) -> Options:
    """``migrate`` and ``join`` of a section; what it does not say is inherited."""
    migrate, join = section.section("migrate"), section.section("join")
    said: dict[str, Any] = {
        "migrate_timeout": migrate.optional("timeout", seconds),
        "migrate_stability": migrate.optional("stability", seconds),
        "accept_slow_disk": migrate.optional("accept_slow_disk", boolean),
        "join_timeout": join.optional("timeout", seconds),
        "join_stability": join.optional("stability", seconds),
        "token_file": join.optional("token_file", absolute),
        "controller_token_file": join.file("controller_token_file"),
    }
    migrate.end()
    join.end()
    if said["token_file"] or said["controller_token_file"]:
        inherited = dataclasses.replace(inherited, token_file=None, controller_token_file=None)
    return dataclasses.replace(inherited, **{name: value for name, value in said.items() if value is not None})


def _waves(section: Section) -> Waves:
    said = {name: section.optional(name, count) for name in ("size", "at_once", "stop_after_failures")}
    waves = Waves(canary=tuple(section.optional("canary", names) or ()))
    section.end()
    said["at_once"] = said["at_once"] or said["size"]
    numbers: dict[str, Any] = {name: value for name, value in said.items() if value is not None}
    return dataclasses.replace(waves, **numbers)


def _limits(section: Section) -> Limits:
    said = {field.name: section.optional(field.name, seconds) for field in dataclasses.fields(Limits)}
    section.end()
    return Limits(**{name: value for name, value in said.items() if value is not None})


def _tls(section: Section) -> Tls | None:
    ca, cert, key = (section.file(name) for name in ("ca", "cert", "key"))
    section.end()
    if ca is None and cert is None and key is None:
        return None
    if ca is None or cert is None or key is None:
        raise ConfigurationError(f"{section.where} needs all of ca, cert and key.")
    return Tls(ca, cert, key)


def _check(fleet: Fleet) -> None:
    """What no key can tell alone."""
    known = {cluster.name for cluster in fleet.clusters}
    if twice := _twice(cluster.name for cluster in fleet.clusters):
        raise ConfigurationError(f"{fleet.path}: two clusters have the name {twice}.")
    if twice := _twice(server.agent for cluster in fleet.clusters for server in cluster.servers):
        raise ConfigurationError(f"{fleet.path}: {twice} is the agent of two servers.")
    if twice := _twice(fleet.waves.canary):
        raise ConfigurationError(f"{fleet.path}: waves: canary names {twice} twice.")
    if unknown := sorted(set(fleet.waves.canary) - known):
        raise ConfigurationError(f"{fleet.path}: waves: canary names {', '.join(unknown)}, which is no cluster.")
    for cluster in fleet.clusters:
        for server in cluster.servers:
            where = f"cluster {cluster.name}: {server.name}"
            scheme = urllib.parse.urlsplit(server.agent).scheme
            if scheme not in ("https", "http", "unix"):
                raise ConfigurationError(f"{where}: agent {server.agent} is not https://, http:// or unix:.")
            if scheme == "https" and fleet.tls is None:
                raise ConfigurationError(f"{where}: an https:// agent needs tls with ca, cert and key.")
            if scheme != "http" and server.tunnel_to is not None:
                raise ConfigurationError(f"{where}: tunnel_to is for an agent with http://.")
            if scheme == "http" and server.bearer_token_file is None:
                raise ConfigurationError(f"{where}: an http:// agent needs bearer_token_file.")
            if scheme == "http" and server is not cluster.first and cluster.options.controller_token_file:
                raise ConfigurationError(
                    f"{where}: controller_token_file would be sent unencrypted to {server.agent}.",
                    next_step="Use token_file, a path on the joining server, or https://.",
                )


def _twice(values: Iterable[str]) -> str | None:
    """The first value that is there more than once."""
    return next((value for value, number in Counter(values).items() if number > 1), None)
