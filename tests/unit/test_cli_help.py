"""The help of the command line."""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator

import click
import pytest

from umrgen.cli import COMMANDS, LazyGroup, umrgen
from umrgen.cli.examples import EXAMPLES, examples_of
from umrgen.cli.overview import summary_of

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
    examples = examples_of(name)
    assert examples
    assert f"Example{'s' if len(examples) > 1 else ''}:\n    " + "\n    ".join(examples) in help


@pytest.mark.parametrize("name", ALL)
def test_each_help_has_whole_sentences(name: str) -> None:
    command = ALL[name]
    options = [parameter.help or "" for parameter in command.params if isinstance(parameter, click.Option)]
    for text in [command.help or "", *options]:
        sentences = re.sub(r"\s*\[[^\]]*\]$", "", text.strip())  # without the variable after them
        assert re.match(r"[A-Z`]", sentences), text
        assert sentences.endswith("."), text


def test_the_overview_has_a_sentence_for_each_command() -> None:
    shown = umrgen.get_help(ROOT)
    for name in COMMANDS:
        assert summary_of(name).endswith("."), name
        assert re.search(rf"^  {name} +{re.escape(summary_of(name))}$", shown, re.MULTILINE), name


def test_the_overview_and_the_completion_import_no_command() -> None:
    code = """
import sys
from umrgen.cli import umrgen, COMMANDS
context = umrgen.make_context("umrgen", [], resilient_parsing=True)
umrgen.get_help(context)
assert {item.value for item in umrgen.shell_complete(context, "")} >= set(COMMANDS)
loaded = {path.partition(":")[0] for path in COMMANDS.values()} & set(sys.modules)
assert not loaded, loaded
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_each_example_is_a_valid_command() -> None:
    assert set(EXAMPLES) == set(ALL)
    for example in [example for name in EXAMPLES for example in examples_of(name)]:
        example = re.sub(r'^eval "\$\((.*)\)"$', r"\1", example)
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
