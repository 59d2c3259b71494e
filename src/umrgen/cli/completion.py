"""`umrgen completion`: the completion of commands, options and job ids in bash, zsh and fish."""

import click

from umrgen.errors import UmrgenError

__all__ = ["completion", "job_ids", "unfinished_ids"]

SHELLS = ("bash", "zsh", "fish")
MOST = 50
"""The newest jobs of the journal whose ids are offered."""


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> None:
    """Print the completion for SHELL: bash 4.4 or newer, zsh or fish.

    For bash, add to ~/.bashrc: eval "$(umrgen completion bash)". For zsh, add to ~/.zshrc, below compinit: eval
    "$(umrgen completion zsh)". For fish, write it to ~/.config/fish/completions/umrgen.fish.
    """
    from click.shell_completion import get_completion_class

    from umrgen.cli import umrgen

    kind = get_completion_class(shell)
    if kind is None:
        raise UmrgenError(f"there is no completion for {shell}")
    click.echo(kind(umrgen, {}, "umrgen", "_UMRGEN_COMPLETE").source())


def job_ids(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Return the ids of the newest jobs of this machine's journal that begin with `incomplete`."""
    return _ids(incomplete, unfinished=False)


def unfinished_ids(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Return the ids of the unfinished jobs of this machine's journal that begin with `incomplete`."""
    return _ids(incomplete, unfinished=True)


def _ids(incomplete: str, *, unfinished: bool) -> list[str]:
    from umrgen.client.journal import Journal
    from umrgen.text import JOB_ID

    try:
        entries = Journal().unfinished() if unfinished else Journal().entries()
    except UmrgenError:
        return []
    found = [entry.job_id for entry in reversed(entries) if entry.job_id is not None]
    return [name for name in found if name.startswith(incomplete) and JOB_ID.fullmatch(name)][:MOST]
