"""`umrgen setup`: propose settings for this machine, write them, create a key, and install a service; step by step."""

import asyncio
import os
import sqlite3
import subprocess
import sys
import time
import webbrowser
from contextlib import closing
from pathlib import Path
from shutil import which
from typing import TYPE_CHECKING

import click

from umrgen.cli.common import CommandOutput, exit_on_error, require_server_packages
from umrgen.cli.studio import new_link
from umrgen.durable import make_folder, make_private, sync
from umrgen.errors import UmrgenError
from umrgen.paths import config_home, data_home
from umrgen.text import printable

if TYPE_CHECKING:
    from umrgen.server.machine import MachineFacts
    from umrgen.server.proposal import Proposal
    from umrgen.server.settings import Settings

__all__ = ["setup", "write_new"]

UNIT = "umrgen.service"
GIB = 1 << 30
START_SECONDS = 30.0
FIRST_PORT = 3088


@click.command()
@click.option("--yes", is_flag=True, help="Take every default without a question; needed where there is no terminal.")
@click.option("--model", help="The model to draw with, instead of the proposed one.")
@click.option(
    "--state", type=click.Path(path_type=Path), help="The state folder of the server; by default, that of umrgen serve."
)
@click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The settings file to write; by default, umrgen/umrgen.toml in the user's configuration folder.",
)
def setup(yes: bool, model: str | None, state: Path | None, config: Path | None) -> None:
    """Set up a server on this machine, in steps that can each be declined.

    It inspects the machine, proposes a model, writes a settings file, creates an API key, installs a service of systemd
    for this user, starts it, and opens the studio. It announces each change before it makes it, and replaces no file.
    """

    def work() -> None:
        if not yes and not sys.stdin.isatty():
            raise UmrgenError(
                "umrgen setup has questions, and standard input is not a terminal",
                code="no_terminal",
                next="Run it in a terminal, or take every default: umrgen setup --yes",
            )
        with require_server_packages():
            from umrgen.server.machine import inspect_machine

        folder = (state or data_home()).absolute()
        _Setup(yes, (config or config_home() / "umrgen.toml").absolute(), inspect_machine(folder)).run(folder, model)

    exit_on_error(CommandOutput(False, False), work)


class _Setup:
    """The steps, each with a question before it changes something."""

    def __init__(self, yes: bool, config: Path, facts: "MachineFacts") -> None:
        self._yes = yes
        self._config = config
        self._facts = facts

    def _confirm(self, question: str, *, default: bool = True) -> bool:
        if self._yes:
            click.echo(f"{question} {'yes' if default else 'no'}")
            return default
        return click.confirm(question, default=default)

    def run(self, state: Path, model: str | None) -> None:
        self._show_machine()
        settings = self._settings(state, model)
        self._download(settings)
        self._create_key(settings)
        if self._config.exists() and not self._is_used(settings):
            self._service(settings)
        self._open_studio(settings)

    def _is_used(self, settings: "Settings") -> bool:
        """Return whether a server with other settings uses the state folder; report it."""
        from umrgen.server.state import server_pid

        pid = server_pid(settings.state)
        if pid is None or _responds(settings):
            return False
        click.echo(
            f"Another server (process {pid}) uses the state folder {settings.state}. It keeps running; to install the"
            " service, stop it, and run umrgen setup again."
        )
        return True

    def _show_machine(self) -> None:
        facts = self._facts
        cards = ", ".join(f"{gpu.name} with {gpu.memory / GIB:.0f} GiB" for gpu in facts.gpus)
        click.echo(f"GPU:      {cards or 'none found'}")
        click.echo(f"memory:   {facts.memory / GIB:.0f} GiB, and {facts.free / GIB:.0f} GiB of free disk")
        click.echo(f"ComfyUI:  {facts.comfyui or 'none found'}")
        click.echo(f"engines:  {', '.join(sorted(facts.engines))}\n")

    # --- the settings file ---

    def _settings(self, state: Path, model: str | None) -> "Settings":
        """Return the settings of the file that exists, or of the proposal, which is written if that is confirmed."""
        from umrgen.server.machine import free_port
        from umrgen.server.proposal import config_text
        from umrgen.server.settings import Settings

        if self._config.exists():
            click.echo(f"The settings file {self._config} exists. It is used as it is.")
            return Settings.load({}, {}, self._config)
        proposal, port = self._proposal(model), free_port(FIRST_PORT)
        settings = Settings.load({"state": state, "port": port, "model": proposal.model}, {})
        text = config_text(proposal, self._facts, state, port)
        click.echo(f"\n{text}")
        if self._confirm(f"Write this to {self._config}?"):
            write_new(self._config, text)
        return settings

    def _proposal(self, model: str | None) -> "Proposal":
        from umrgen.server.model_choice import choose
        from umrgen.server.proposal import Proposal, propose

        proposed = propose(self._facts)
        if model is None:
            engine = "" if proposed.engine == proposed.model else f" (engine {proposed.engine})"
            click.echo(f"Proposed: {proposed.model}{engine}: {proposed.reason}.")
            if proposed.advice:
                click.echo(proposed.advice)
            model = proposed.model if self._yes else click.prompt("Model", default=proposed.model)
        if model == proposed.model:
            return proposed
        return Proposal(model, choose(model).reason)

    # --- the model ---

    def _download(self, settings: "Settings") -> None:
        """Offer to download a model of the hub that is not on this machine. A failure does not end the set-up."""
        if settings.engine != "diffusers":
            return
        try:
            self._offer_download(settings)
        except UmrgenError as error:
            click.echo(f"The model cannot be used yet: {error}. {error.next or ''}".rstrip())
            click.echo(f"Before the first image: umrgen engine pull {settings.model}")

    def _offer_download(self, settings: "Settings") -> None:
        from umrgen.server.engine_plan import engine_plan, pull_model

        plan = engine_plan(settings)
        if "not here" not in plan:
            click.echo(f"The model is on this machine; memory: {plan['memory']}, fits: {plan['fits']}.")
        elif self._confirm(f"Download the model {settings.model}? (memory while it draws: {plan['memory']})"):
            pull_model(settings.model, None, _show_progress)
        else:
            click.echo(f"Before the first image: umrgen engine pull {settings.model}")

    # --- the key ---

    def _create_key(self, settings: "Settings") -> None:
        if _has_keys(settings):
            click.echo(f"There is an API key already: umrgen keys list --state {settings.state}")
            return
        if not self._confirm(f"Create an API key in the ledger {settings.ledger_name}?"):
            return
        make_folder(settings.state, mode=0o700)
        click.echo("The API key, which is printed only once:\n")
        click.echo(f"    {asyncio.run(_new_key(settings))}\n")
        click.echo(f"To store it for the client: umrgen login --base-url http://127.0.0.1:{settings.port}\n")

    # --- the service ---

    def _service(self, settings: "Settings") -> None:
        unit = config_home().parent / "systemd" / "user" / UNIT
        if not _has_systemd():
            click.echo(f"There is no systemd for users here. Start the server: umrgen serve --config {self._config}")
            return
        if self._install(unit) and not _responds(settings):
            self._start(settings)

    def _install(self, unit: Path) -> bool:
        """Offer to install the unit; return whether there is one."""
        from umrgen.server.deployment import executable, user_unit

        text = user_unit(executable(), self._config)
        if unit.exists():
            same = unit.read_text() == text
            click.echo(
                f"The service {unit} exists{'' if same else ', differs from the one proposed here, and is kept'}."
            )
            return True
        if not self._confirm(f"Install the service {unit}?"):
            click.echo(f"Start the server: umrgen serve --config {self._config}")
            return False
        write_new(unit, text)
        return True

    def _start(self, settings: "Settings") -> None:
        if not self._confirm(f"Start it now, and at each login (systemctl --user enable --now {UNIT})?"):
            return
        for command in (["daemon-reload"], ["enable", "--now", UNIT]):
            _systemctl(*command)
        deadline = time.monotonic() + START_SECONDS
        while not _responds(settings) and time.monotonic() < deadline:
            time.sleep(0.2)
        ready = "The server runs." if _responds(settings) else "The server does not respond yet."
        click.echo(f"{ready} Its log: journalctl --user -u {UNIT}. To run it without a login: loginctl enable-linger")

    # --- the studio ---

    def _open_studio(self, settings: "Settings") -> None:
        url = f"http://127.0.0.1:{settings.port}"
        if not settings.studio or not _responds(settings):
            return
        if self._confirm(f"Open the studio, {url}, in the browser?", default=_has_display()):
            webbrowser.open(_studio_link(settings.state) or url)


def _studio_link(state: Path) -> str | None:
    """Return a link that needs no key, or None if the server accepts none."""
    try:
        return new_link(state)
    except UmrgenError:
        return None


def write_new(file: Path, text: str) -> None:
    """Write a new file that only this user can read: complete, or not at all. Raises UmrgenError."""
    unfinished = file.with_name(f".{file.name}.new")
    try:
        make_folder(file.parent)
        unfinished.unlink(missing_ok=True)
        make_private(unfinished)
        unfinished.write_text(text)
        sync(unfinished)
        os.link(unfinished, file)  # fails if the file exists now
        sync(file)
        unfinished.unlink()
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise UmrgenError(f"{file} cannot be written: {error.strerror}") from None
    click.echo(f"written: {file}")


def _show_progress(file: str, done: int, total: int) -> None:
    click.echo(f"{done / 2**20:8.0f} of {total / 2**20:.0f} MiB  {printable(file)}")


def _has_keys(settings: "Settings") -> bool:
    """Return whether the ledger has a key, without a change of the ledger; True if that cannot be read."""
    if settings.ledger_kind != "sqlite":
        return True
    if not settings.ledger_file.exists():
        return False
    # Without a write-ahead log, no server uses the file; opening it as immutable then leaves no file beside it.
    log = settings.ledger_file.with_name(f"{settings.ledger_file.name}-wal")
    mode = "mode=ro" if log.exists() else "immutable=1"
    try:
        with closing(sqlite3.connect(f"{settings.ledger_file.as_uri()}?{mode}", uri=True)) as connection:
            (count,) = connection.execute("SELECT count(*) FROM keys WHERE revoked_at IS NULL").fetchone()
    except sqlite3.Error:
        return True
    return bool(count)


async def _new_key(settings: "Settings") -> str:
    from umrgen.server.implementations import open_keys
    from umrgen.server.services.api_keys import NewKey

    async with open_keys(settings) as keys:
        secret, _ = await keys.create(NewKey("setup"))
        return secret


def _has_systemd() -> bool:
    """Return whether a systemd manages services of this user."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    return which("systemctl") is not None and runtime is not None and (Path(runtime) / "systemd").is_dir()


def _systemctl(*arguments: str) -> None:
    program = which("systemctl") or "systemctl"
    done = subprocess.run([program, "--user", *arguments], capture_output=True, text=True)
    if done.returncode != 0:
        raise UmrgenError(
            f"systemctl --user {' '.join(arguments)} failed: {printable(done.stderr)}",
            next=f"See: systemctl --user status {UNIT}",
        )


def _responds(settings: "Settings") -> bool:
    from umrgen.server.health import responds

    return responds(settings)


def _has_display() -> bool:
    return sys.platform == "darwin" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
