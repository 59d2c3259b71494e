"""The page docs/cli.md, from the commands themselves: python tests/cli_page.py > docs/cli.md"""

import inspect
import re
from collections.abc import Iterator

import click

from umrgen.cli import umrgen
from umrgen.cli.common import EXIT_CODES
from umrgen.cli.examples import examples_of
from umrgen.cli.overview import SECTIONS
from umrgen.server.settings import settings_table

__all__ = ["page"]

HEAD = """# The command line

Every command, from `umrgen --help` (`python tests/cli_page.py` writes this page).

Data is on stdout, everything else on stderr: `--json` prints one JSON object on stdout, and `--events` one object per
line while something happens. A command that waits prints its progress on stderr.

```sh
pip install umrgen
umrgen login
umrgen generate "a lighthouse at dusk" -o lighthouse.png
```

With a server of your own, it is `pip install 'umrgen[server]'` and `umrgen generate`, which starts a server for the
command, or `umrgen serve`, which stays.

## The server and the key

`umrgen login` stores an address and a key as a profile, in `~/.config/umrgen/profiles.json` (below `XDG_CONFIG_HOME`),
which only you can read. Of several sources, the first one counts:

1. the arguments `--base-url`, `--api-key-file` and `--profile NAME`;
2. the environment: `UMRGEN_BASE_URL` and `UMRGEN_API_KEY`;
3. the profile that `UMRGEN_PROFILE` names, or else the profile `default`.

The key of a profile is sent to the address of this profile only. `Client()` in Python uses the same sources. A key is
never an argument, where other users of the machine could read it. `umrgen config show` prints the values in force and
their sources, and `umrgen logout` removes a profile.

## Images in the terminal

`umrgen generate` and `umrgen show` display the image where stdout is a terminal that can: kitty and Ghostty (kitty's
protocol), iTerm2 and WezTerm (iTerm2's), foot, mlterm and others (Sixel, which needs Pillow: `pip install pillow`).
The environment names the terminal. Where it does not, one query finds Sixel, within half a second; it restores the
terminal's mode, and loses no typed input. `--no-display` and `UMRGEN_DISPLAY=off` turn the display off;
`UMRGEN_DISPLAY=kitty`, `iterm` or `sixel` sets the protocol.

In tmux, Sixel works where tmux has been built with it. The other two need `set -g allow-passthrough on` and
`UMRGEN_DISPLAY=kitty` or `iterm`; tmux then does not redraw the image.

## Completion

| shell | set-up |
| --- | --- |
| bash 4.4 or newer | `eval "$(umrgen completion bash)"` in `~/.bashrc` |
| zsh | `eval "$(umrgen completion zsh)"` in `~/.zshrc`, below `compinit` |
| fish | `umrgen completion fish > ~/.config/fish/completions/umrgen.fish` |

Commands, options, the names of profiles, and the ids of the jobs in this machine's journal are completed.

## Exit codes
"""
SHARED = ("--base-url", "--profile", "--api-key-file", "--timeout", "--json", "--events")
"""Options that mean the same in each command that has them."""
SETTINGS = "Each [setting of the server](settings.md) is an option too."


def page() -> str:
    """Return the whole page."""
    return "\n".join([HEAD, *_exit_codes(), "", *_shared(), *_commands()]) + "\n"


def _exit_codes() -> Iterator[str]:
    yield "| code | meaning |"
    yield "| --- | --- |"
    yield from (f"| {code} | {meaning} |" for code, meaning in EXIT_CODES.items())
    yield ""
    yield "[The exit code of each error](errors.md)."


def _shared() -> Iterator[str]:
    yield "## Options of many commands"
    yield ""
    yield from (_option(option) for option in _options(_jobs()) if option.opts[-1] in SHARED)
    yield ""


def _jobs() -> click.Command:
    """Return a command that has all shared options."""
    jobs = umrgen.get_command(click.Context(umrgen), "jobs")
    assert jobs is not None
    return jobs


def _commands() -> Iterator[str]:
    context = click.Context(umrgen, info_name="umrgen")
    listed = [name for commands in SECTIONS.values() for name in commands]
    names = umrgen.list_commands(context)
    for name in [*(name for name in listed if name in names), *(name for name in names if name not in listed)]:
        command = umrgen.get_command(context, name)
        assert command is not None
        yield from _command(command, name, click.Context(command, info_name=name, parent=context))


def _command(command: click.Command, name: str, context: click.Context) -> Iterator[str]:
    yield f"## umrgen {name}" if " " not in name else f"### umrgen {name}"
    yield ""
    yield f"`umrgen {name} {' '.join(command.collect_usage_pieces(context))}`".replace(" `", "`")
    yield ""
    yield re.sub(r"(?m)^\x08\n", "", inspect.cleandoc(command.help or ""))
    yield ""
    options = [option for option in _options(command) if not _is_shared(option)]
    flags = {setting.flag for setting in settings_table()}
    if flags <= {option.opts[0] for option in options}:
        options = [option for option in options if option.opts[0] not in flags]
        yield SETTINGS
        yield ""
    if options:
        yield from map(_option, options)
        yield ""
    if not isinstance(command, click.Group):
        yield "```sh"
        yield from examples_of(name)
        yield "```"
        yield ""
        return
    for inner in command.list_commands(context):
        child = command.get_command(context, inner)
        assert child is not None
        yield from _command(child, f"{name} {inner}", click.Context(child, info_name=inner, parent=context))


def _options(command: click.Command) -> list[click.Option]:
    return [option for option in command.params if isinstance(option, click.Option)]


def _is_shared(option: click.Option) -> bool:
    """Return whether the option is among those of many commands, with the same meaning."""
    return option.opts[-1] in SHARED and any(_help(option) == _help(other) for other in _options(_jobs()))


def _help(option: click.Option) -> str:
    return " ".join((option.help or "").split())


def _option(option: click.Option) -> str:
    names = ", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))
    value = "" if option.is_flag or option.count else f" {option.make_metavar(click.Context(click.Command('x')))}"
    shown = option.get_help_extra(click.Context(click.Command("x")))
    default = f" The default is {shown['default'].strip('()')}." if "default" in shown else ""
    text = re.sub(r"\s*\[([A-Z_]+)\]$", r" (`\1`)", _help(option))
    return f"- {names}{f' `{value.strip()}`' if value else ''}: {text}{default}"


if __name__ == "__main__":
    print(page(), end="")
