"""The command line as data, out of the parser."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator

from k3s_ha_agent.ctl import arguments as ctl
from k3s_ha_agent.fleet import arguments as fleet


@dataclasses.dataclass(frozen=True)
class Command:
    """``words``: empty for the program itself, else the command and its subcommand."""

    words: tuple[str, ...]
    help: str
    parser: argparse.ArgumentParser
    commands: tuple[Command, ...]
    shared: frozenset[str]
    """The options of the program itself, which are not said again with each command."""

    @property
    def options(self) -> list[argparse.Action]:
        return [a for a in self.parser._actions if a.option_strings]

    @property
    def own_options(self) -> list[argparse.Action]:
        return [a for a in self.options if a.dest not in self.shared]

    @property
    def needed(self) -> list[str]:
        """What a command cannot be typed without, as a usage line shows it."""
        options = [f"{a.option_strings[0]} {value_name(a)}" for a in self.own_options if a.required]
        return [*options, *(shown(a) for a in self.positionals)]

    @property
    def positionals(self) -> list[argparse.Action]:
        return [a for a in self.parser._actions if not a.option_strings and not _is_commands(a)]

    def walk(self) -> Iterator[Command]:
        yield self
        for command in self.commands:
            yield from command.walk()


def _is_commands(action: argparse.Action) -> bool:
    return isinstance(action, argparse._SubParsersAction)


def _command(words: tuple[str, ...], text: str, parser: argparse.ArgumentParser, shared: frozenset[str]) -> Command:
    below: list[Command] = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {choice.dest: choice.help or "" for choice in action._choices_actions}
            below += [_command((*words, name), helps[name], sub, shared) for name, sub in action.choices.items()]
    return Command(words, text, parser, tuple(below), shared)


@dataclasses.dataclass(frozen=True)
class Program:
    """A program with commands."""

    name: str
    parser: argparse.ArgumentParser

    @property
    def tree(self) -> Command:
        shared = frozenset(a.dest for a in self.parser._actions if a.option_strings)
        return _command((), self.parser.description or "", self.parser, shared)


CTL = Program(ctl.PROGRAM, ctl.build_parser())
FLEET = Program(fleet.PROGRAM, fleet.build_parser())


def takes_value(action: argparse.Action) -> bool:
    return action.nargs != 0


def value_name(action: argparse.Action) -> str:
    """What stands for the value of an option, or a positional."""
    if action.choices is not None:
        return "{" + ",".join(str(choice) for choice in action.choices) + "}"
    return str(action.metavar or action.dest.upper())


def shown(action: argparse.Action) -> str:
    """A positional as a usage line shows it."""
    name = value_name(action)
    return {"?": f"[{name}]", "*": f"[{name} ...]", "+": f"{name} [{name} ...]"}.get(str(action.nargs), name)


def help_of(action: argparse.Action) -> str:
    text = action.help or ""
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")
