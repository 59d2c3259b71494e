"""`umrgen bench`."""

import sys
from typing import TYPE_CHECKING, Any

import click

from umrgen.cli.common import (
    CommandOutput,
    json_option,
    run,
)
from umrgen.cli.connection import ConnectionOptions, connection_options

if TYPE_CHECKING:
    from umrgen.client.load import LoadResult

__all__ = ["bench"]


@click.command()
@click.option("--callers", type=click.IntRange(1, 1000), default=1, help="The callers at the same time (1).")
@click.option("--images", type=click.IntRange(1, 100_000), default=20, help="The images of all callers together (20).")
@click.option("--repeat-prompt", is_flag=True, help="One prompt with new seeds, instead of new prompts.")
@click.option("--width", type=int, help="The width in pixels.")
@click.option("--height", type=int, help="The height in pixels.")
@click.option("--steps", type=int, help="The number of steps.")
@click.option("--model", metavar="NAME", help="A model, of those the server has.")
@connection_options
@json_option
def bench(
    callers: int,
    images: int,
    repeat_prompt: bool,
    connection: ConnectionOptions,
    as_json: bool,
    **request: Any,
) -> None:
    """Measure a server under a fixed load: images per second, and the times until an image is there.

    Every image is a job of this key: on a real server it takes time and counts against the key's limits.
    Exit code: 0, or that of the first error if there was no image at all.
    """
    from umrgen.client.async_client import AsyncClient
    from umrgen.client.load import Load, run_load
    from umrgen.clock import SystemClock

    output = CommandOutput(as_json, False)

    def progress(done: int) -> None:
        if not as_json and sys.stderr.isatty():
            click.echo(f"\r{done} of {images}", nl=done == images, err=True)

    async def work() -> None:
        given = {name: value for name, value in request.items() if value is not None}
        load = Load(callers, images, repeat_prompt, given)
        async with AsyncClient(journal=None, **connection.arguments()) as client:
            measured = await run_load(client, load, SystemClock(), progress)
        output.result(measured.as_dict() | {"callers": callers}, _as_text(measured, callers))
        if not measured.to_image and measured.first_failures:
            raise next(iter(measured.first_failures.values()))

    run(output, work)


def _as_text(measured: "LoadResult", callers: int) -> str:
    result = measured.as_dict()
    lines = [f"{result['images']} images by {callers} callers in {result['seconds']:.1f} s"]
    if result["images_per_second"] is not None:
        lines.append(f"  {result['images_per_second']:.3g} images/s")
    for name, title in (("time_to_image", "time to image"), ("queue_time", "queue time")):
        if times := result[name]:
            lines.append(f"  {title:14} p50 {times['p50']:.3f} s, p95 {times['p95']:.3f} s")
    lines += [
        f"  {count} failed: {code}: {measured.first_failures[code]}" for code, count in result["failures"].items()
    ]
    return "\n".join(lines)
