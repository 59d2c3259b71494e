"""The help of the command line."""

import shlex
from collections.abc import Iterator

import click
import pytest

from umrgen.cli import COMMANDS, LazyGroup, umrgen
from umrgen.cli.examples import EXAMPLES

ROOT = click.Context(umrgen, info_name="umrgen")


def commands(group: click.Group, context: click.Context) -> Iterator[tuple[str, click.Command]]:
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield name, command
        if isinstance(command, click.Group):
            yield from ((f"{name} {inner}", subcommand) for inner, subcommand in commands(command, context))


ALL = dict(commands(umrgen, ROOT))


@pytest.mark.parametrize("name", ALL)
def test_each_command_has_an_example_in_its_help(name: str) -> None:
    help = ALL[name].get_help(click.Context(ALL[name], info_name=name))
    assert f"Example:\n    {EXAMPLES[name]}" in help
    assert "\n  " in help


def test_each_example_is_a_valid_command() -> None:
    assert set(EXAMPLES) == set(ALL)
    for example in EXAMPLES.values():
        arguments = shlex.split(example.partition(" > ")[0])[1:]
        name = " ".join(arguments[:2]) if " ".join(arguments[:2]) in ALL else arguments[0]
        rest = arguments[name.count(" ") + 1 :]
        command = ALL[name]
        _, left, _ = command.make_parser(click.Context(command)).parse_args(list(rest))
        assert left == []


@pytest.mark.parametrize("wrong", ["generat", "genrate", "statsu", "fetsh", "job"])
def test_an_unknown_command_names_the_nearest_one(wrong: str) -> None:
    assert isinstance(umrgen, LazyGroup)
    with pytest.raises(click.UsageError, match=r"Did you mean '(generate|status|fetch|jobs)'"):
        umrgen.resolve_command(ROOT, [wrong])
    assert wrong not in COMMANDS


def test_an_unknown_option_names_the_nearest_one() -> None:
    with pytest.raises(click.UsageError) as refused:
        ALL["generate"].make_context("generate", ["a boat", "--widht", "512"])
    assert "--width" in refused.value.format_message()
