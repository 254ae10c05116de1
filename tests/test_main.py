"""The command line in this process; ``test_package`` has it as somebody installs it."""

import sys
from types import SimpleNamespace

import pytest

from opd_toy import __main__ as command_line


@pytest.fixture
def needs(monkeypatch):
    """needs(NAME): the only command is one that needs a package of that name."""

    def command(name):
        def run(parsed):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

        add = lambda commands: commands.add_parser("try").set_defaults(run=run)
        monkeypatch.setattr(command_line, "COMMANDS", (SimpleNamespace(add=add),))

    return command


@pytest.mark.parametrize("name, extra", command_line.EXTRAS.items())
def test_a_missing_package_is_named_with_what_brings_it(needs, name, extra):
    needs(name)
    with pytest.raises(SystemExit) as stopped:
        command_line.main(["try"])
    assert stopped.value.code == (
        f"this command needs {name}, which the extra '{extra}' brings: "
        f"pip install 'opd-toy[{extra}]', or pip install -e '.[{extra}]' in a checkout of the book"
    )


def test_another_missing_module_is_a_fault_of_ours(needs):
    needs("opd_toy.attic")
    with pytest.raises(ModuleNotFoundError):
        command_line.main(["try"])


@pytest.mark.parametrize(
    "argv, prog", [("bin/opd-toy", "opd-toy"), ("opd_toy/__main__.py", "python -m opd_toy")]
)
def test_how_it_is_called(needs, monkeypatch, capsys, argv, prog):
    needs("torch")
    monkeypatch.setattr(sys, "argv", [argv])
    with pytest.raises(SystemExit) as stopped:
        command_line.main([])
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and said.startswith(f"usage: {prog} [-h] COMMAND ...\n")
    assert said.endswith("error: the following arguments are required: COMMAND\n")


def test_commands_stand_in_their_order(capsys):
    with pytest.raises(SystemExit):
        command_line.main(["--help"])
    said = capsys.readouterr().out
    assert "On-policy distillation made exact." in said and "\ncommands:\n" in said
    names = [module.__name__.split(".")[-1] for module in command_line.COMMANDS]
    places = [said.index(f"\n    {name} ") for name in names]
    assert places == sorted(places) and len(places) == 11
