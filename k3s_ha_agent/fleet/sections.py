"""Reading ``fleet.yaml`` level by level: nothing unknown, nothing twice, every complaint with its place."""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml

from k3s_ha_agent.durations import parse_duration
from k3s_ha_agent.errors import ConfigurationError

T = TypeVar("T")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,49}")
"""Names become parts of an Idempotency-Key, which has at most 255 visible ASCII characters."""
MOST = 10_000


class Loader(yaml.SafeLoader):
    """Refuses a key that stands twice: which one was meant?"""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} stands twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


class Section:
    """A mapping of the file. Keys are taken out; ``end`` complains of those left."""

    def __init__(self, value: Any, where: str, directory: Path) -> None:
        if value is None:
            value = {}
        if not isinstance(value, Mapping):
            raise ConfigurationError(f"{where}: must have keys and values, not {value!r}.")
        self._left = dict(value)
        self._directory = directory
        self.where = where

    def optional(self, key: str, read: Callable[[Any], T]) -> T | None:
        value = self._left.pop(key, None)
        if value is None:
            return None
        try:
            return read(value)
        except ValueError as error:
            raise ConfigurationError(f"{self.where}: {key}: {error}.") from error

    def text(self, key: str) -> str:
        value = self.optional(key, text)
        if value is None:
            raise ConfigurationError(f"{self.where}: {key} is missing.")
        return value

    def name(self, key: str) -> str:
        value = self.text(key)
        if not _NAME.fullmatch(value):
            raise ConfigurationError(f"{self.where}: {key}: {value!r} is not a name of letters, digits and ._- (50).")
        return value

    def file(self, key: str) -> Path | None:
        value = self.optional(key, text)
        return None if value is None else self._directory / Path(value).expanduser()

    def section(self, key: str) -> Section:
        return Section(self._left.pop(key, None), f"{self.where}: {key}", self._directory)

    def sections(self, key: str) -> list[Section]:
        values = self._left.pop(key, None)
        if not isinstance(values, list) or not values:
            raise ConfigurationError(f"{self.where}: {key} must be a list of at least one.")
        return [Section(one, f"{self.where}: {key} {n}", self._directory) for n, one in enumerate(values, 1)]

    def end(self) -> None:
        if self._left:
            raise ConfigurationError(f"{self.where}: {', '.join(map(str, sorted(self._left, key=str)))}: not known.")


def text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"must be text, not {value!r}")
    return value


def boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"must be true or false, not {value!r}")
    return value


def count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MOST:
        raise ValueError(f"must be a number from 1 to {MOST}, not {value!r}")
    return value


def seconds(value: Any) -> float:
    found = parse_duration(text(value))
    if found <= 0:
        raise ValueError("must be more than nothing")
    return found


def names(value: Any) -> list[str]:
    if not isinstance(value, list):
        raise ValueError(f"must be a list of names, not {value!r}")
    return [text(one) for one in value]


def absolute(value: Any) -> str:
    if not text(value).startswith("/"):
        raise ValueError(f"must be a whole path on the joining server, not {value!r}")
    return str(value)


def k3s_url(value: Any) -> str:
    url = urllib.parse.urlsplit(text(value))
    if url.scheme != "https" or not url.hostname or url.path not in ("", "/"):
        raise ValueError(f"must be like https://10.0.0.1:6443, not {value!r}")
    return str(value).rstrip("/")
