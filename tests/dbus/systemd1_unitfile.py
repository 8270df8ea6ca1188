"""Unit files as systemd reads them: sections, drop-ins, lists that an empty value resets, time spans.

Part of ``fake_systemd1.py``. Source of the rules: systemd.unit(5), systemd.syntax(7), systemd.service(5),
systemd.time(7), of systemd 252.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "s": " ", "\\": "\\", '"': '"', "'": "'"}
Settings = dict[tuple[str, str], list[str]]

_SPAN = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)")
_SPAN_UNITS = {"": 1, "s": 1, "sec": 1, "ms": 0.001, "us": 1e-6, "m": 60, "min": 60, "h": 3600, "hr": 3600, "d": 86400}
_VARIABLE = re.compile(r"\$\$|\$\{([A-Za-z_]\w*)\}")


def parse_text(text: str, into: Settings) -> None:
    """Add the settings of one file to those read before it."""
    section = ""
    lines = iter(text.splitlines())
    for line in lines:
        stripped = line.strip()
        while stripped.endswith("\\"):
            following = next(lines, "").strip()
            stripped = stripped[:-1] + " " + ("\\" if following.startswith(("#", ";")) else following)
        if not stripped or stripped[0] in "#;":
            continue
        if stripped[0] == "[" and stripped[-1] == "]":
            section = stripped[1:-1]
            continue
        key, equals, value = stripped.partition("=")
        if not equals:
            continue
        values = into.setdefault((section, key.strip()), [])
        if value.strip():
            values.append(value.strip())
        else:
            values.clear()


def parse_span(text: str) -> float:
    """Seconds of a time span; ``infinity`` is inf."""
    if text.strip() == "infinity":
        return float("inf")
    position, seconds = 0, 0.0
    while position < len(text.rstrip()):
        match = _SPAN.match(text, position)
        if match is None or match[2] not in _SPAN_UNITS:
            raise ValueError(f"{text!r} is no time span")
        seconds += float(match[1]) * _SPAN_UNITS[match[2]]
        position = match.end()
    return seconds


def split(text: str) -> list[str]:
    """Words as systemd splits them: quotes of both kinds, C escapes also within them, others stay as they are."""
    words: list[str] = []
    word: list[str] | None = None
    quote = ""
    position = 0
    while position < len(text):
        letter = text[position]
        position += 1
        if letter == "\\" and position < len(text):
            following = text[position]
            word = [*(word or []), _ESCAPES.get(following, letter + following)]
            position += 1
        elif quote and letter == quote:
            quote = ""
        elif not quote and letter in "'\"":
            quote, word = letter, word or []
        elif not quote and letter.isspace():
            if word is not None:
                words.append("".join(word))
            word = None
        else:
            word = [*(word or []), letter]
    return words if word is None else [*words, "".join(word)]


def parse_environment_file(text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for line in text.replace("\\\n", "").splitlines():
        stripped = line.strip()
        if stripped and stripped[0] not in "#;" and "=" in stripped:
            key, _, value = stripped.partition("=")
            found[key.strip()] = "".join(split(value.strip())) if value.strip()[:1] in "'\"" else value.strip()
    return found


@dataclasses.dataclass(frozen=True)
class Command:
    argv: tuple[str, ...]
    ignore_failure: bool

    def expanded(self, environment: Mapping[str, str]) -> list[str]:
        """argv with variables put in: ``${A}`` anywhere; ``$A`` as a word of its own only, as the words it holds."""
        words: list[str] = []
        for word in self.argv:
            alone = re.fullmatch(r"\$([A-Za-z_]\w*)", word)
            if alone:
                words += split(environment.get(alone[1], ""))
            else:
                words.append(_VARIABLE.sub(lambda m: _value(m, environment), word))
        return words


def _value(match: re.Match[str], environment: Mapping[str, str]) -> str:
    if match[0] == "$$":
        return "$"
    return environment.get(match[1], "")


@dataclasses.dataclass(frozen=True)
class UnitFile:
    """One unit as loaded; stays as it is until it is loaded again, as in systemd."""

    name: str
    load_state: str
    fragment: Path | None = None
    drop_ins: tuple[Path, ...] = ()
    settings: Settings = dataclasses.field(default_factory=dict)
    stamps: tuple[object, ...] = ()
    folders: tuple[Path, ...] = ()
    """The drop-in directories there were; systemd notices a new one only when it reloads."""

    def all(self, section: str, key: str) -> list[str]:
        return self.settings.get((section, key), [])

    def get(self, section: str, key: str, default: str = "") -> str:
        values = self.all(section, key)
        return values[-1] if values else default

    def words(self, section: str, key: str) -> list[str]:
        return [word for value in self.all(section, key) for word in value.split()]

    def span(self, section: str, key: str, default: float) -> float:
        value = self.get(section, key)
        return parse_span(value) if value else default

    def yes(self, section: str, key: str, default: bool = False) -> bool:
        return self.get(section, key, "yes" if default else "no").lower() in ("1", "yes", "true", "on")

    def commands(self, key: str) -> list[Command]:
        found = []
        for value in self.all("Service", key):
            prefix = re.match(r"[-@:+!]*", value)
            assert prefix is not None
            words = split(value[prefix.end() :])
            found.append(Command(tuple(self.specify(word) for word in words), "-" in prefix[0]))
        return found

    def specify(self, word: str) -> str:
        stem = self.name.rpartition(".")[0]
        prefix, _, instance = stem.partition("@")
        values = {"n": self.name, "N": stem, "p": prefix, "i": instance, "t": "/run", "%": "%"}
        return re.sub(r"%([nNpit%])", lambda m: values[m[1]], word)

    def environment(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for value in self.all("Service", "Environment"):
            for word in split(value):
                key, _, text = word.partition("=")
                found[key] = self.specify(text)
        return found

    def environment_files(self) -> list[tuple[str, bool]]:
        """Paths with whether the file may be missing."""
        return [(self.specify(v.lstrip("-")), v.startswith("-")) for v in self.all("Service", "EnvironmentFile")]


def folders(name: str, directories: Sequence[Path]) -> tuple[Path, ...]:
    """The drop-in directories of a unit, those read last first: the earlier in the list has the last word."""
    stem, _, suffix = name.rpartition(".")
    parts = stem.split("-")
    names = [f"{name}.d", *("-".join(parts[:n]) + f"-.{suffix}.d" for n in range(len(parts) - 1, 0, -1)), f"{suffix}.d"]
    return tuple(d / folder for folder in names for d in directories if (d / folder).is_dir())


def drop_ins(found: Iterable[Path]) -> tuple[Path, ...]:
    """The files of these directories in the order they are read: by name, wherever they lie."""
    chosen: dict[str, Path] = {}
    for folder in reversed(list(found)):
        if folder.is_dir():
            chosen.update((path.name, path) for path in folder.iterdir() if path.suffix == ".conf")
    return tuple(path for _, path in sorted(chosen.items()))


def stamps(paths: Iterable[Path]) -> tuple[object, ...]:
    """What NeedDaemonReload compares: paths and their times."""
    found = []
    for path in paths:
        status = path.stat() if path.exists() else None
        found.append((path, status and (status.st_mtime_ns, status.st_ino, status.st_size)))
    return tuple(found)


def load(name: str, directories: Sequence[Path]) -> UnitFile:
    fragment = next((d / name for d in directories if (d / name).exists() or (d / name).is_symlink()), None)
    places = folders(name, directories)
    paths = drop_ins(places)
    seen = stamps([*([fragment] if fragment else []), *paths])
    if fragment is None:
        return UnitFile(name, "not-found", drop_ins=paths, stamps=seen, folders=places)
    if fragment.resolve() == Path("/dev/null"):
        return UnitFile(name, "masked", fragment, stamps=stamps([fragment]))
    settings: Settings = {}
    for path in (fragment, *paths):
        parse_text(path.read_text(), settings)
    loaded = UnitFile(name, "loaded", fragment, paths, settings, seen, places)
    if name.endswith(".service") and not (loaded.commands("ExecStart") or loaded.commands("ExecStop")):
        return dataclasses.replace(loaded, load_state="bad-setting")
    return loaded


def changed(file: UnitFile) -> bool:
    """NeedDaemonReload: a file is not the one that was read, or one came into a directory known then."""
    fragment = [file.fragment] if file.fragment else []
    return file.load_state != "not-found" and stamps([*fragment, *drop_ins(file.folders)]) != file.stamps
