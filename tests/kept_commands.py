"""Every command's options in words, what they are called, take and default to; the tables."""

import argparse
import io
from contextlib import redirect_stdout
from pathlib import Path

from opd_toy import __main__ as program

# Defaults that depend on the machine; tests/test_kept_texts.py has how.
OF_THE_MACHINE = {("bench", "threads"), ("variance", "threads")}


def parsers():
    """{name: (its line in the list of commands, its parser)}"""
    commands = argparse.ArgumentParser().add_subparsers()
    for command in program.COMMANDS:
        command.add(commands)
    lines = {action.dest: action.help for action in commands._choices_actions}
    return {name: (lines[name], parser) for name, parser in commands.choices.items()}


def words_of(value):
    if isinstance(value, (list, tuple, dict)):
        return ", ".join(map(str, value)) or "nothing"
    return value.as_posix() if isinstance(value, Path) else repr(value)


def option(command, action):
    """One option as lines: its names and facts, then its help."""
    facts = {
        name: getattr(action, name)
        for name in ("dest", "nargs", "const", "metavar", "choices")
        if getattr(action, name) is not None
    }
    if action.type is not None:
        facts["type"] = action.type.__name__
    if action.required:
        facts["required"] = True
    machines = (command, action.dest) in OF_THE_MACHINE
    facts["default"] = "the machine's" if machines else action.default
    said = "; ".join(f"{name} {words_of(value)}" for name, value in facts.items())
    names = ", ".join(action.option_strings) or "(by its place)"
    return f"  {names}: {type(action).__name__}: {said}\n    {action.help}"


def options():
    blocks = []
    for name, (line, parser) in parsers().items():
        head = [f"{name}: {line}", f"  {parser.description}", f"  {parser.epilog}"]
        actions = [option(name, each) for each in parser._actions if each.dest != "help"]
        for group in parser._mutually_exclusive_groups:
            alternatives = (f"{each.dest} {each.const}" for each in group._group_actions)
            actions.append(f"  one of: {', '.join(alternatives)}")
        blocks.append("\n".join([*head, *actions]))
    return "\n\n".join(blocks)


def tables():
    with redirect_stdout(io.StringIO()) as printed:
        program.main(["tables"])
    return printed.getvalue()


COMMAND_TEXTS = {"options": options, "tables": tables}
