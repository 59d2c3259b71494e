"""`umrgen engine`: the engine of a server on this machine."""

import asyncio
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import click

from umrgen.cli.common import (
    CommandOutput,
    F,
    ServerOptions,
    exit_on_error,
    json_option,
    require_server_packages,
    server_options,
    server_settings,
)
from umrgen.errors import UmrgenError
from umrgen.text import printable

if TYPE_CHECKING:
    from umrgen.server.engine_check import EngineCheck
    from umrgen.server.engines import EngineInfo
    from umrgen.server.settings import Settings

__all__ = ["engine"]


@click.group()
def engine() -> None:
    """Check, plan and release the engine of a server on this machine."""


def engine_options(command: F) -> F:
    """Add the options that choose an engine, and the server's settings file."""
    for option in (
        click.option("--config", type=click.Path(path_type=Path), envvar="UMRGEN_CONFIG", help="A settings file."),
        click.option("--devices", type=int, help="The number of devices.  [env var: UMRGEN_DEVICES]"),
        click.option(
            "--engine-option", multiple=True, metavar="NAME=VALUE", help="An option of the engine; may be repeated."
        ),
        click.option("--engine", help="The engine's name, or module:Class.  [env var: UMRGEN_ENGINE]"),
        click.option("--model", help="A model, which chooses the engine.  [env var: UMRGEN_MODEL]"),
    ):
        command = option(command)
    return command


def _settings(config: Path | None, **flags: Any) -> "Settings":
    with require_server_packages():
        from umrgen.server.settings import Settings

    return Settings.load({name: value for name, value in flags.items() if value != ()}, os.environ, config)


@engine.command()
@engine_options
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Save the image as this file.")
@json_option
def check(output: Path | None, as_json: bool, config: Path | None, **flags: Any) -> None:
    """Load the engine, draw one small image, and print what the engine can do."""
    console = CommandOutput(as_json, False)

    def work() -> None:
        settings = _settings(config, **flags)
        with require_server_packages():
            from umrgen.server.engine_check import check_engine

        found = asyncio.run(check_engine(settings, lambda line: None if as_json else click.echo(line, err=True)))
        if output is not None:
            output.write_bytes(found.image.data)
        console.result(_as_dict(found), _as_text(found))

    exit_on_error(console, work)


def _as_dict(found: "EngineCheck") -> dict[str, Any]:
    from dataclasses import asdict

    image = {"bytes": len(found.image.data), "width": found.image.width, "height": found.image.height}
    seconds = {"load_seconds": round(found.load_seconds, 3), "draw_seconds": round(found.draw_seconds, 3)}
    return {"engine": asdict(found.info), "image": image | {"sha256": found.image.sha256}, **seconds}


def _as_text(found: "EngineCheck") -> str:
    info, image = found.info, found.image
    rows = {
        "engine": " ".join((info.name, info.version, f"({info.kind})")),
        "models": ", ".join(info.models),
        "revision": info.revision,
        "LoRAs": ", ".join(info.loras),
        "features": ", ".join(info.features),
        "sizes": _sizes(info),
        "steps": f"{info.min_steps} to {info.max_steps}, default {info.default_steps}",
        "cfg": "" if info.default_cfg is None else f"default {info.default_cfg:g}",
        "batch": f"up to {info.max_batch} jobs together" if info.max_batch > 1 else "",
        "loaded": f"in {found.load_seconds:.1f} s",
        "drawn": f"{image.width} × {image.height} {image.media_type} in {found.draw_seconds:.1f} s",
    }
    return "\n".join([f"{name:9} {value}" for name, value in rows.items() if value] + [f"· {n}" for n in info.notes])


def _sizes(info: "EngineInfo") -> str:
    multiple = f", multiples of {info.size_multiple}" if info.size_multiple > 1 else ""
    return f"{info.min_side} to {info.max_side} pixels{multiple}"


@engine.command()
@server_options
def release(**server: Unpack[ServerOptions]) -> None:
    """Take the engine of the running server out of memory, when its running jobs have ended.

    The next job loads it again.
    """

    def work() -> None:
        settings = server_settings(**server)
        with require_server_packages():
            from umrgen.server.state import server_pid

        pid = server_pid(settings.state)
        if pid is None:
            raise UmrgenError(
                f"no server runs on the state folder {settings.state}",
                code="no_server",
                next="Name the server's folder with --state, or its settings file with --config.",
            )
        os.kill(pid, signal.SIGUSR1)
        click.echo("the engine leaves memory when its running jobs have ended; the next job loads it again", err=True)

    exit_on_error(CommandOutput(False, False), work)


@engine.command()
@click.argument("model")
@click.option("--engine-option", multiple=True, metavar="NAME=VALUE", help="An option of the engine; may be repeated.")
@json_option
def plan(model: str, engine_option: tuple[str, ...], as_json: bool) -> None:
    """Print which engine would draw with MODEL on this machine, and how, without loading or downloading it."""
    console = CommandOutput(as_json, False)

    def work() -> None:
        settings = _settings(None, model=model, engine_option=engine_option)
        with require_server_packages():
            from umrgen.server.engine_plan import engine_plan

        rows = engine_plan(settings)
        console.result(rows, "\n".join(f"{name:12} {printable(str(value))}" for name, value in rows.items()))

    exit_on_error(console, work)


@engine.command()
@click.argument("model")
@click.option("--revision", help="A commit, tag or branch of the model; without it, the newest.")
@json_option
def pull(model: str, revision: str | None, as_json: bool) -> None:
    """Download MODEL (owner/name) of the hub. Engines download nothing themselves, and load this revision."""
    console = CommandOutput(as_json, False)

    def progress(file: str, done: int, total: int) -> None:
        if not as_json:
            click.echo(f"{done / 2**20:8.0f} of {total / 2**20:.0f} MiB  {printable(file)}", err=True)

    def work() -> None:
        with require_server_packages():
            from umrgen.server.engine_plan import pull_model

        found = pull_model(model, revision, progress)
        console.result(found, f"{found['model']} at {found['revision']} ({found['family']})")

    exit_on_error(console, work)
