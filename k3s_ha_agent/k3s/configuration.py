"""What k3s is told, out of all the places it is told in, and who said it.

Places, strongest first (k3s-facts, "Config and unit"): the unit's command line,
``config.yaml.d/*.yaml`` (by name, later wins), ``config.yaml``, and the environment: the unit's
``Environment=`` and its files (``/etc/default/k3s``, ``/etc/sysconfig/k3s``, ``k3s.service.env``).
k3s turns the YAML files into flags in front of the command line's own
(pkg/configfilearg/parser.go), so a repeatable flag gathers from both; a variable counts only
when no flag is given.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from types import MappingProxyType
from typing import Any, Literal

import yaml

from k3s_ha_agent.errors import ConfigurationError
from k3s_ha_agent.k3s import flags
from k3s_ha_agent.k3s.environment_file import expand, parse_environment_file

__all__ = [
    "Configuration",
    "Setting",
    "cluster_init_drop_in",
    "drop_in_path",
    "effective",
    "parse_config_yaml",
    "parse_environment_file",
    "parse_exec",
    "read",
    "server_drop_in",
]

DEFAULT_CONFIG = Path("/etc/rancher/k3s/config.yaml")
DROP_IN = "zz-k3s-ha-agent.yaml"
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml's, as yaml.v2, which k3s uses, is a port of libyaml: PyYAML's own refuses a tab between tokens."""
_DEEPEST = 20
_ROLES: tuple[Literal["server"], Literal["agent"]] = ("server", "agent")


@dataclasses.dataclass(frozen=True, slots=True)
class Setting:
    flag: str
    """The flag's long name without dashes."""
    value: str
    source: str
    """Who said it: a file, or ``command line of k3s.service``."""

    def __repr__(self) -> str:
        value = "…" if self.flag in flags.SECRET else self.value
        return f"Setting({self.flag}={value!r} by {self.source})"

    __str__ = __repr__


@dataclasses.dataclass(frozen=True, slots=True)
class Configuration:
    role: Literal["server", "agent"]
    config_file: Path
    """The configuration file k3s looks for; it need not exist."""
    config_sources: tuple[str, ...]
    """The configuration files and drop-ins that were read."""
    in_effect: Mapping[str, tuple[Setting, ...]]
    said: Mapping[str, tuple[Setting, ...]]

    def get(self, flag: str) -> Setting | None:
        """The setting in effect; of a repeated flag the last."""
        settings = self.in_effect.get(flags.canonical(flag))
        return settings[-1] if settings else None

    def values(self, flag: str) -> list[Setting]:
        """All settings of a repeatable flag that are in effect."""
        return list(self.in_effect.get(flags.canonical(flag), ()))

    def all(self, flag: str) -> list[Setting]:
        """Everyone who says it, the overridden ones too, weakest first."""
        return list(self.said.get(flags.canonical(flag), ()))

    def flag(self, name: str) -> bool:
        """Whether a boolean flag is on. ConfigurationError for a value k3s would not start with."""
        setting = self.get(name)
        return setting is not None and is_true(setting)


def is_true(setting: Setting) -> bool:
    """The value of one saying of a boolean flag."""
    if setting.value in flags.TRUE:
        return True
    if setting.value in flags.FALSE:
        return False
    raise ConfigurationError(
        f"{setting.source} sets {setting.flag} to {setting.value!r}, which is neither true nor false.",
        next_step="k3s does not start with it; correct it.",
    )


# --- reading text ----------------------------------------------------------------------------


def parse_exec(argv: Sequence[str]) -> tuple[Literal["server", "agent"], list[tuple[str, str]]]:
    """The role and the flags of a k3s command line, in order; a boolean flag alone is ``true``.

    A flag this module does not know takes the next argument for its value unless that looks like
    a flag. ConfigurationError when the command line is not one of ``k3s server`` or ``k3s agent``, or
    when flags come after a word that is no flag's value: releases up to spring 2025 heed them, later
    ones do not (k3s-facts 4.9).
    """
    start = next((i for i, word in enumerate(argv) if i > 0 and word in _ROLES), None)
    if start is None:
        raise ConfigurationError(
            f"The command line {PurePath(argv[0]).name if argv else '(empty)'!r} of the unit runs neither "
            "k3s server nor k3s agent.",
            next_step="Check the setting unit; a wrapper script around k3s is not supported.",
        )
    role = _ROLES[_ROLES.index(argv[start])]
    # `k3s --debug server`: flags before the role are k3s's too, unless another program runs k3s.
    before = argv[1:start] if PurePath(argv[0]).name.startswith("k3s") else ()
    given: list[tuple[str, str]] = []
    words = iter([*before, *argv[start + 1 :]])
    pending = next(words, None)
    while pending is not None and pending.startswith("-") and pending not in ("-", "--"):
        name, equals, value = pending.lstrip("-").partition("=")
        name = flags.canonical(name)
        pending = next(words, None)
        if not equals and (name in flags.BOOLEANS or pending is None):
            value = "true" if name in flags.BOOLEANS else ""
        elif not equals and name not in flags.VALUED and pending is not None and pending.startswith("-"):
            value = "true"
        elif not equals:
            value = pending or ""
            pending = next(words, None)
        given.append((name, value))
    if pending is not None and any(word.startswith("-") for word in _before_dashes([pending, *words])):
        # Neither the word nor the flags are shown: one of them may be a secret.
        raise ConfigurationError(
            f"On the unit's command line a word after {'--' + given[-1][0] if given else role} belongs to no flag, "
            "and flags follow it; releases of k3s differ in whether they heed those.",
            next_step="Take the word out of the unit: an empty ${VARIABLE} is one too, a boolean flag takes its "
            "value only after =, and a list is repeated (--disable a --disable b) or separated by commas.",
        )
    return role, given


def _before_dashes(words: Sequence[str]) -> Sequence[str]:
    """Behind ``--`` nothing is a flag. A single ``-`` is none either."""
    end = words.index("--") if "--" in words else len(words)
    return [word for word in words[:end] if word != "-"]


def parse_config_yaml(text: str, source: str = "config.yaml") -> list[tuple[str, bool, list[str]]]:
    """The keys of a k3s configuration file in order: name as written, whether ``key+`` appends, values.

    A scalar gives one value, a list as many as it has; values as Go prints them (``true``,
    ``6443``). Of several documents k3s reads the first (gopkg.in/yaml.v2, Unmarshal).
    ConfigurationError naming ``source`` when it is not a YAML mapping.
    """
    try:
        _require_flat(text, source)
        data = next(yaml.load_all(text, _LOADER), None)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that is none
        # The problem and its place, never the line itself: it may hold a token.
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark is not None else ""
        raise ConfigurationError(f"{source} is not YAML: {getattr(error, 'problem', 'unreadable')}{where}.") from None
    if data is None:
        return []
    if not isinstance(data, dict):
        raise ConfigurationError(f"{source} is not a mapping of flags to values.")
    keys: list[tuple[str, bool, list[str]]] = []
    for key, value in data.items():
        name = _scalar(key)
        values = [_scalar(v) for v in value] if isinstance(value, list) else [_scalar(value)]
        keys.append((name.removesuffix("+"), name.endswith("+"), values))
    return keys


def _require_flat(text: str, source: str) -> None:
    """ConfigurationError for a document nested deeper than any flag needs: libyaml's loader recurses without end."""
    depth = 0
    for event in yaml.parse(text, _LOADER):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _DEEPEST:
            raise ConfigurationError(f"{source} is not a mapping of flags to values: it is nested {depth} deep.")
        if isinstance(event, yaml.DocumentEndEvent):
            return


def _scalar(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict | list):
        return str(value)
    return str(value).strip()


# --- putting it together -----------------------------------------------------------------------


def effective(
    argv: Sequence[str],
    environments: Sequence[tuple[str, Mapping[str, str]]],
    config_files: Sequence[tuple[str, str]],
    *,
    unit: str = "k3s.service",
    config_file: Path = DEFAULT_CONFIG,
) -> Configuration:
    """The configuration out of texts: ``environments`` and ``config_files`` (path, text) weakest first."""
    merged: dict[str, str] = {}
    for _, variables in environments:
        merged.update(variables)
    role, given = parse_exec(expand(argv, merged))

    from_environment: dict[str, list[Setting]] = {}
    for source, variables in environments:
        for variable, value in variables.items():
            name = flags.ENVIRONMENT.get(variable)
            if name is not None and value:  # an empty variable says nothing
                from_environment.setdefault(name, []).append(Setting(name, value, source))

    said_in_files: dict[str, list[Setting]] = {}
    in_files: dict[str, list[Setting]] = {}  # by the key as written: -t and token stay apart, as in k3s
    for source, text in config_files:
        for key, appends, values in parse_config_yaml(text, source):
            name = flags.canonical(key)
            settings = [Setting(name, value, source) for value in values]
            said_in_files.setdefault(name, []).extend(settings)
            in_files[key] = in_files.get(key, []) + settings if appends else settings

    said: dict[str, list[Setting]] = {name: list(settings) for name, settings in from_environment.items()}
    for name, settings in said_in_files.items():
        said.setdefault(name, []).extend(settings)
    in_effect: dict[str, list[Setting]] = {}
    for key, settings in in_files.items():
        in_effect.setdefault(flags.canonical(key), []).extend(settings)
    for name, value in given:
        setting = Setting(name, value, f"command line of {unit}")
        said.setdefault(name, []).append(setting)
        in_effect.setdefault(name, []).append(setting)
    for name, settings in from_environment.items():
        if not in_effect.get(name):
            in_effect[name] = settings[-1:]
    return Configuration(
        role=role,
        config_file=config_file,
        config_sources=tuple(source for source, _ in config_files),
        in_effect=MappingProxyType({name: tuple(settings) for name, settings in in_effect.items()}),
        said=MappingProxyType({name: tuple(settings) for name, settings in said.items()}),
    )


def read(
    argv: Sequence[str],
    environment: Mapping[str, str],
    environment_files: Sequence[Path],
    root: Path = Path("/"),
    default_config: Path = DEFAULT_CONFIG,
    *,
    unit: str = "k3s.service",
) -> Configuration:
    """The configuration of a unit: its command line, ``Environment=`` and environment files as
    systemd reports them, and the YAML files below ``root``. Missing files say nothing.

    Blocks. ConfigurationError when a file cannot be read or is not valid.
    """
    environments: list[tuple[str, Mapping[str, str]]] = [(f"Environment= of {unit}", dict(environment))]
    for path in environment_files:
        text = _read_if_there(_below(root, path))
        if text is not None:
            environments.append((str(path), parse_environment_file(text)))
    merged: dict[str, str] = {}
    for _, variables in environments:
        merged.update(variables)
    config_file = _config_file(expand(argv, merged), merged, default_config)
    texts: list[tuple[str, str]] = []
    for path in [config_file, *_drop_ins(root, config_file)]:
        text = _read_if_there(_below(root, path))
        if text is not None:
            texts.append((str(path), text))
    return effective(argv, environments, texts, unit=unit, config_file=config_file)


def _config_file(argv: Sequence[str], environment: Mapping[str, str], default: Path) -> Path:
    """K3S_CONFIG_FILE wins over ``--config``, the first of several wins (findConfigFileFlag)."""
    chosen = environment.get("K3S_CONFIG_FILE") or next(
        (value for name, value in parse_exec(argv)[1] if name == "config"), str(default)
    )
    if chosen.startswith(("http://", "https://")):
        raise ConfigurationError(
            f"k3s takes its configuration from {chosen}, which cannot be told apart from what it will be next time.",
            next_step="Use a file.",
        )
    return Path(chosen)


def _drop_ins(root: Path, config_file: Path) -> list[Path]:
    directory = config_file.with_name(config_file.name + ".d")
    try:
        entries = sorted(entry.name for entry in _below(root, directory).iterdir() if not entry.is_dir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise ConfigurationError(f"{directory} cannot be read: {error.strerror}.") from error
    return [directory / name for name in entries if name.lower().endswith((".yaml", ".yml"))]


def _below(root: Path, path: Path) -> Path:
    return root / path.relative_to("/") if path.is_absolute() else root / path


def _read_if_there(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}.") from error


# --- our own drop-in -----------------------------------------------------------------------------


def drop_in_path(config_file: Path = DEFAULT_CONFIG) -> Path:
    """Our file in k3s's drop-in directory; its name makes it the last and so the strongest."""
    return config_file.with_name(config_file.name + ".d") / DROP_IN


_OWNER = (
    "# Written by k3s-ha-agent, which owns this file and removes it when it undoes what it did.\n"
    "# Do not edit it: put settings of your own into another file of this directory.\n"
)


def cluster_init_drop_in() -> bytes:
    """What makes k3s convert its SQLite datastore to etcd at its next start (k3s-facts, "Seen" 4)."""
    return (_OWNER + "cluster-init: true\n").encode()


def server_drop_in(url: str, token_file: Path) -> bytes:
    """What makes an empty server join the cluster at ``url``; the token stays in its own 0600 file."""
    return (_OWNER + f"server: {json.dumps(url)}\ntoken-file: {json.dumps(str(token_file))}\n").encode()
