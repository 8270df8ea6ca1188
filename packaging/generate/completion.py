"""Completion for bash, zsh and fish, out of the parser.

Ids of operations are asked of the agent while completing; nothing is completed when it does not answer.
"""

from __future__ import annotations

import argparse
import re
import shlex

import commands

MADE = "# Made by packaging/generate; changes are made in the parser of the program."
IDS = 'k3s-ha-agentctl -o json operations 2>/dev/null | sed -n \'s/^      "id": "\\([A-Za-z0-9_.-]*\\)",*$/\\1/p\''

BASH_IDS = IDS.replace("k3s-ha-agentctl", 'k3s-ha-agentctl ${socket:+--socket "$socket"}', 1)
"""``socket`` is a variable of the function that calls this one."""
BASH_NAMES = "compopt -o filenames 2>/dev/null"
"""A slash after a directory instead of a space; it works while completing only."""


def function(program: commands.Program) -> str:
    return "_" + program.name.replace("-", "_")


def asks_for_ids(program: commands.Program) -> bool:
    return any(kind(a) == "operation" for c in program.tree.walk() for a in (*c.positionals, *c.options))


def kind(action: argparse.Action) -> str:
    """What a value is: words, a file, a directory, an operation, or anything."""
    if action.choices is not None:
        return "words"
    return {"PATH": "file", "FILE": "file", "DIR": "directory", "FLEET.YAML": "file", "ID": "operation"}.get(
        str(action.metavar), "any"
    )


def words(action: argparse.Action) -> str:
    return " ".join(str(choice) for choice in action.choices or ())


def option_words(command: commands.Command) -> str:
    return " ".join(name for action in command.options for name in action.option_strings)


# --- bash ------------------------------------------------------------------------------------------


def bash(program: commands.Program) -> str:
    root, name_ = program.tree, function(program)
    valued = {}
    for command in root.walk():
        for action in command.options:
            if commands.takes_value(action):
                valued.update(dict.fromkeys(action.option_strings, action))
    how = {
        "words": lambda a: f'mapfile -t COMPREPLY < <(compgen -W "{words(a)}" -- "$current")',
        "file": lambda a: f'mapfile -t COMPREPLY < <(compgen -f -- "$current")\n            {BASH_NAMES}',
        "directory": lambda a: f'mapfile -t COMPREPLY < <(compgen -d -- "$current")\n            {BASH_NAMES}',
        "operation": lambda a: f'mapfile -t COMPREPLY < <(compgen -W "$({name_}_ids)" -- "$current")',
        "any": lambda a: "COMPREPLY=()",
    }
    lines = [
        f"# bash completion for {program.name}",
        MADE,
        "",
        *([f"{name_}_ids() {{", f"    {BASH_IDS}", "}", ""] if asks_for_ids(program) else []),
        f"{name_}() {{",
        "    local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD-1]}",
        '    local command="" word skip="" socket="" n',
        "    COMPREPLY=()",
        "    # --option=value comes as three words.",
        '    if [[ $current == "=" ]]; then current=""',
        '    elif [[ $previous == "=" ]]; then previous=${COMP_WORDS[COMP_CWORD-2]}; fi',
        "    for ((n = 1; n < COMP_CWORD; n++)); do",
        "        word=${COMP_WORDS[n]}",
        '        if [[ $word == "=" ]]; then continue; fi',
        "        if [[ $skip ]]; then",
        '            if [[ $skip == "--socket" ]]; then socket=$word; fi',
        '            skip=""',
        "            continue",
        "        fi",
        '        case "$word" in',
        f"            {'|'.join(sorted(valued))}) skip=$word ;;",
        "            -*) ;;",
        '            *) case "$command${command:+ }$word" in',
    ]
    known = [" ".join(command.words) for command in root.walk() if command.words]
    lines += [f'                "{name}") command="{name}" ;;' for name in known]
    lines += ["            esac ;;", "        esac", "    done", '    case "$previous" in']
    by_how: dict[str, list[str]] = {}
    for name, action in sorted(valued.items()):
        by_how.setdefault(how[kind(action)](action), []).append(name)
    for line, names in by_how.items():
        lines += [f"        {'|'.join(names)})", f"            {line}", "            return ;;"]
    lines += ["    esac", '    case "$command" in']
    for command in root.walk():
        offered = " ".join(sub.words[-1] for sub in command.commands)
        ids = any(kind(action) == "operation" for action in command.positionals)
        lines.append(f'        "{" ".join(command.words)}")')
        lines.append(f'            if [[ $current == -* ]]; then word="{option_words(command)}"')
        lines.append(f'            else word="{offered}{f"$({name_}_ids)" if ids else ""}"; fi ;;')
    lines += ["    esac", '    mapfile -t COMPREPLY < <(compgen -W "$word" -- "$current")', "}"]
    # Where nothing of ours fits, bash offers files: only where a program takes some.
    takes_files = any(kind(action) == "file" for command in root.walk() for action in command.positionals)
    lines += [f"complete {'-o default ' if takes_files else ''}-F {name_} {program.name}", ""]
    return "\n".join(lines)


# --- zsh -------------------------------------------------------------------------------------------


def zsh_text(text: str) -> str:
    return re.sub(r"([\[\]:\\'])", lambda m: "'\\''" if m[1] == "'" else "\\" + m[1], text)


def zsh_action(name_: str, action: argparse.Action) -> str:
    return {
        "words": f"({words(action)})",
        "file": "_files",
        "directory": "_files -/",
        "operation": f"{name_}_ids",
        "any": " ",
    }[kind(action)]


def zsh_specs(name_: str, command: commands.Command) -> list[str]:
    specs = []
    for action in command.options:
        text = zsh_text(commands.help_of(action) % vars(action))
        value = (
            f":{zsh_text(commands.value_name(action))}:{zsh_action(name_, action)}"
            if commands.takes_value(action)
            else ""
        )
        names = action.option_strings
        together = f"({' '.join(names)})" if len(names) > 1 else ""
        specs += [f"'{together}{name}[{text}]{value}'" for name in names]
    for action in command.positionals:
        many = "*" if action.nargs == "*" else ""
        specs.append(f"'{many}:{zsh_text(commands.value_name(action))}:{zsh_action(name_, action)}'")
    return specs


def zsh_function(name_: str, command: commands.Command) -> str:
    return "_".join((name_, *command.words)).replace("-", "_")


def zsh(program: commands.Program) -> str:
    name_ = function(program)
    lines = [f"#compdef {program.name}", MADE]
    if asks_for_ids(program):
        lines += [
            "",
            f"{name_}_ids() {{",
            "    local -a ids",
            f'    ids=(${{(f)"$({IDS})"}})',
            "    compadd -a ids",
            "}",
        ]
    for command in reversed(list(program.tree.walk())):
        lines += ["", f"{zsh_function(name_, command)}() {{"]
        specs = zsh_specs(name_, command)
        if command.commands:
            described = " ".join(f"'{sub.words[-1]}:{zsh_text(sub.help)}'" for sub in command.commands)
            lines += ["    local context state line", "    _arguments -C \\"]
            lines += [f"        {spec} \\" for spec in specs]
            lines += ["        '1:command:->command' '*::argument:->argument'", '    case "$state" in']
            lines += [
                "        command)",
                f"            local -a known=({described})",
                "            _describe command known ;;",
            ]
            lines += ["        argument)", '            case "${line[1]}" in']
            lines += [f"                {sub.words[-1]}) {zsh_function(name_, sub)} ;;" for sub in command.commands]
            lines += ["            esac ;;", "    esac"]
        else:
            lines += ["    _arguments \\", *(f"        {spec} \\" for spec in specs[:-1]), f"        {specs[-1]}"]
        lines.append("}")
    return "\n".join([*lines, "", f'{name_} "$@"', ""])


# --- fish ------------------------------------------------------------------------------------------


def fish(program: commands.Program) -> str:
    root, name_ = program.tree, function(program)
    lines = [f"# fish completion for {program.name}", MADE, "", f"complete -c {program.name} -f", ""]
    if asks_for_ids(program):
        lines += [f"function {name_}_ids", f"    {IDS}", "end", ""]
    ids = f"({name_}_ids)"
    for command in root.walk():
        if not command.words:
            condition = "__fish_use_subcommand"
        else:
            condition = "; and ".join(f"__fish_seen_subcommand_from {word}" for word in command.words)
        for sub in command.commands:
            others = " ".join(each.words[-1] for each in command.commands)
            where = condition if not command.words else f"{condition}; and not __fish_seen_subcommand_from {others}"
            lines.append(
                f"complete -c {program.name} -n {shlex.quote(where)} -a {sub.words[-1]} -d {shlex.quote(sub.help)}"
            )
        for action in command.options if not command.words else command.own_options:
            where = [] if not command.words else ["-n", shlex.quote(condition)]
            names = [f"-l {n[2:]}" if n.startswith("--") else f"-s {n[1:]}" for n in action.option_strings]
            value = []
            if commands.takes_value(action):
                given = {"words": f"-x -a {shlex.quote(words(action))}", "any": "-x", "operation": f"-x -a '{ids}'"}
                value = [given.get(kind(action), "-r -F")]
            text = shlex.quote(commands.help_of(action) % vars(action))
            lines.append(" ".join(["complete", "-c", program.name, *where, *names, *value, "-d", text]))
        if any(kind(action) == "file" for action in command.positionals):
            lines.append(f"complete -c {program.name} -n {shlex.quote(condition)} -F")
        if any(kind(action) == "operation" for action in command.positionals):
            lines.append(f"complete -c {program.name} -n {shlex.quote(condition)} -a '{ids}'")
    return "\n".join([*lines, ""])


def files() -> dict[str, str]:
    found = {}
    for program in (commands.CTL, commands.FLEET):
        name = program.name
        found |= {f"{name}.bash": bash(program), f"_{name}": zsh(program), f"{name}.fish": fish(program)}
    return found
