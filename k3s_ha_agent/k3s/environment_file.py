"""Environment files and variables in command lines, read the way systemd reads them.

systemd.exec(5), EnvironmentFile=, and systemd.service(5), "COMMAND LINES".
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence

_WORD = re.compile(r"\$([A-Za-z_][A-Za-z0-9_]*)")
_BRACED = re.compile(r"\$\$|\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_ESCAPED_IN_DOUBLE_QUOTES = '"\\`$'


def parse_environment_file(text: str) -> dict[str, str]:
    """The variables of a file like ``/etc/systemd/system/k3s.service.env``; later ones win.

    Lines without ``=``, and comments (``#`` or ``;``), are skipped as systemd skips them.
    """
    variables: dict[str, str] = {}
    position = 0
    while position < len(text):
        if text[position].isspace():
            position += 1
            continue
        end = _line_end(text, position)
        equals = text.find("=", position, end)
        if text[position] in "#;" or equals < 0:
            position = end
            continue
        name = text[position:equals].rstrip()
        variables[name], position = _value(text, equals + 1)
    return variables


def _line_end(text: str, position: int) -> int:
    end = text.find("\n", position)
    return len(text) if end < 0 else end


def _value(text: str, position: int) -> tuple[str, int]:
    """The value that begins at ``position``, and where the next line begins."""
    parts: list[str] = []
    while position < len(text) and text[position] != "\n":
        character = text[position]
        if character in " \t\r":
            position += 1
        elif character == "'":
            end = text.find("'", position + 1)
            end = len(text) if end < 0 else end
            parts.append(text[position + 1 : end])
            position = end + 1
        elif character == '"':
            quoted, position = _double_quoted(text, position + 1)
            parts.append(quoted)
        else:
            plain, position = _plain(text, position)
            parts.append(plain)
    return "".join(parts), position


def _double_quoted(text: str, position: int) -> tuple[str, int]:
    out: list[str] = []
    while position < len(text) and text[position] != '"':
        if text[position] == "\\" and position + 1 < len(text):
            position += 1
            if text[position] in _ESCAPED_IN_DOUBLE_QUOTES:
                out.append(text[position])
            elif text[position] != "\n":
                out.append("\\" + text[position])
        else:
            out.append(text[position])
        position += 1
    return "".join(out), position + 1


def _plain(text: str, position: int) -> tuple[str, int]:
    """Up to the end of the line; quotes inside are ordinary, trailing blanks are dropped."""
    out: list[str] = []
    kept = 0
    while position < len(text) and text[position] != "\n":
        if text[position] == "\\" and position + 1 < len(text):
            position += 1
            if text[position] != "\n":
                out.append(text[position])
                kept = len(out)
        else:
            out.append(text[position])
            if not text[position].isspace():
                kept = len(out)
        position += 1
    return "".join(out[:kept]), position


def expand(argv: Sequence[str], environment: Mapping[str, str]) -> list[str]:
    """A command line with its variables replaced as systemd does when it starts the program.

    ``$NAME`` as a word of its own becomes as many words as it holds, ``${NAME}`` stays within its
    word, ``$$`` is a dollar sign; the program itself is never replaced. A variable that is not
    set is empty.
    """
    expanded = list(argv[:1])
    for word in argv[1:]:
        if match := _WORD.fullmatch(word):
            expanded.extend(_split(environment.get(match[1], "")))
        else:
            expanded.append(
                _BRACED.sub(lambda found: environment.get(found[1], "") if found[1] else "$", word),
            )
    return expanded


def _split(value: str) -> list[str]:
    try:
        return shlex.split(value)
    except ValueError:  # a quote that is not closed; systemd takes the words as they are
        return value.split()
