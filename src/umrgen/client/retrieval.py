"""Fetching an image into a verified file under its final name."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from pathlib import Path
from tempfile import TemporaryDirectory

from umrgen.client.conversion import converted
from umrgen.client.flow import CallContext, Event, Reply, RetryBudget, TransportFailure, retry_after
from umrgen.client.flows.download import ThroughputWatchdog, expected_size, has_image, redirect_target, resolve_output
from umrgen.client.partial import PartialFile, translate_disk_errors
from umrgen.client.protocol import rate_limit_delay
from umrgen.client.streams import write_stream
from umrgen.client.target import check_target, is_stream
from umrgen.client.transport import Stream, Transport
from umrgen.durable import sync
from umrgen.errors import (
    ConnectionFailed,
    NotUmrgen,
    OutputCorrupt,
    OutputForbidden,
    OutputMissing,
    RateLimited,
    ServerError,
    UmrgenError,
    WaitTimeout,
)
from umrgen.image_files import EXTENSIONS, MEDIA_TYPES, ImageFacts, digest_from_headers, verify

__all__ = ["fetch_image"]

MAX_REDIRECTS = 5
MAX_ERROR = 64 * 1024
"""Bytes that are read of the body of a response without an image."""


class Download:
    """One download of an image into its partial file."""

    def __init__(self, transport: Transport, context: CallContext, job_id: str, target: Path, *, coded: bool) -> None:
        """`coded`: the errors of the server always have a code, so that any other is a gateway's."""
        self._coded = coded
        self._transport = transport
        self._context = context
        self._job_id = job_id
        self._partial = PartialFile(target, job_id)
        self._retries = RetryBudget(context, context.options.patience)
        self._limited = RetryBudget(context, float("inf"))
        self._requested_delay: float | None = None
        self._attempts_without_progress = 0
        self._length: int | None = None
        self._digest: str | None = None

    async def fetch_verified(self, image_url: str) -> ImageFacts:
        """Download the whole image into the partial file, verify it, and sync it at the same time."""
        base, foreign = self._transport.base_url, self._context.options.follow_foreign
        url, with_key = resolve_output(base, image_url, follow_foreign=foreign)
        await self._download(url, with_key)
        syncing = asyncio.create_task(asyncio.to_thread(self._partial.sync))
        try:
            data = await asyncio.to_thread(self._partial.read)
            return verify(data, length=self._length, sha256=self._digest)
        finally:
            await syncing

    async def _download(self, url: str, with_key: bool) -> None:
        """Send requests until the body is complete."""
        redirects = 0
        while True:
            self._context.observe(self._transport.clock.monotonic())
            if self._context.time_left <= 0:
                raise WaitTimeout(
                    f"the image of job {self._job_id} was not downloaded {self._context.within()}",
                    job_id=self._job_id,
                    next=f"Continue with: umrgen fetch {self._job_id}",
                )
            before = self._partial.state.size
            try:
                location = await self._request(url, with_key)
            except TransportFailure as failure:
                delay = self._retry_delay(
                    ConnectionFailed(f"the download was interrupted: {failure}", job_id=self._job_id),
                    progress=self._partial.state.size > before,
                )
            except RateLimited as error:
                delay = self._limited.next_delay(error, self._requested_delay, job_id=self._job_id)
            except (ServerError, NotUmrgen) as error:
                final = OutputCorrupt(str(error)) if error.status == 200 else error
                delay = self._retries.next_delay(final, self._requested_delay, job_id=self._job_id)
            except ValueError:
                self._partial.discard()  # it has bytes of another version
                delay = self._retry_delay(OutputCorrupt("the image changed during the download"), progress=False)
            else:
                if location is None and self._partial.state.size:
                    return
                if location is None:  # a gateway without a route, or an older server without the file
                    missing = OutputMissing("the server sent an empty file")
                    await self._sleep(self._retry_delay(missing, progress=False))
                    continue
                redirects += 1
                if redirects > MAX_REDIRECTS:
                    raise OutputCorrupt(f"more than {MAX_REDIRECTS} redirects of the image", code="redirect_loop")
                foreign = self._context.options.follow_foreign
                try:
                    url, with_key = redirect_target(self._transport.base_url, url, location, follow_foreign=foreign)
                    continue
                except OutputForbidden as error:  # a gateway's login page, for example
                    redirects = 0
                    delay = self._retries.next_delay(error, job_id=self._job_id)
            await self._sleep(delay)

    async def _sleep(self, delay: float) -> None:
        await self._transport.clock.sleep(min(delay, max(0.0, self._context.time_left)))

    def _retry_delay(self, error: UmrgenError, *, progress: bool) -> float:
        """Return the seconds until the next attempt. Raises `error` after too many attempts without a new byte."""
        self._context.observe(self._transport.clock.monotonic())
        if progress:
            self._attempts_without_progress = 0
            if isinstance(error, ConnectionFailed):
                self._retries.reset()
        else:
            self._attempts_without_progress += 1
        if self._attempts_without_progress >= self._context.options.download_tries:
            raise error
        return self._retries.next_delay(error, job_id=self._job_id)

    async def _request(self, url: str, with_key: bool) -> str | None:
        """Send one request; return the target of a redirect, or None when the body is complete."""
        transport, context = self._transport, self._context
        headers = self._partial.state.headers()
        begin, timeout = context.options.request_timeout, max(0.001, context.time_left)
        async with transport.stream(url, headers, with_key=with_key, begin=begin, timeout=timeout) as stream:
            context.observe(transport.clock.monotonic())
            reply = Reply(stream.status, stream.headers, b"", at=context.now, wall=transport.clock.now() / 1000)
            limited = stream.status == 429
            self._requested_delay = rate_limit_delay(context, reply, self._limited) if limited else retry_after(reply)
            if 300 <= stream.status < 400 and (location := stream.headers.get("location")):
                return location
            error = b"" if has_image(stream.status, stream.headers) else await _beginning(stream)
            self._partial.begin(stream.status, stream.headers, error, foreign=not with_key, coded=self._coded)
            self._length = expected_size(stream.status, stream.headers)
            self._digest = digest_from_headers(stream.headers, partial=stream.status == 206)
            async with aclosing(self._checked_chunks(stream)) as chunks:
                await self._write(chunks)
        if self._length is not None and self._partial.state.size < self._length:
            raise TransportFailure("the body ended early", at=transport.clock.monotonic(), sent=True)
        if self._coded and not self._partial.state.size:
            raise NotUmrgen("expected an image, got an empty response", status=200)
        return None

    async def _write(self, chunks: AsyncIterator[bytes]) -> None:
        state, context = self._partial.state, self._context
        async for chunk in chunks:
            if state.size + len(chunk) > context.options.max_bytes:
                raise OutputCorrupt(f"the image is larger than {context.options.max_bytes} bytes", code="too_large")
            self._partial.write(chunk)
            context.notify(Event("download", self._job_id, data={"bytes": state.size, "total": self._length}))

    async def _checked_chunks(self, stream: Stream) -> AsyncGenerator[bytes, None]:
        """Yield the chunks. Raises TransportFailure when no or too few bytes arrive within `drip_window`."""
        clock, options = self._transport.clock, self._context.options
        watchdog = ThroughputWatchdog(clock.monotonic(), rate=options.drip_rate, window=options.drip_window)
        chunks = aiter(stream.chunks())
        while True:
            try:
                async with asyncio.timeout(options.drip_window):
                    chunk = await anext(chunks)
            except StopAsyncIteration:
                return
            except TimeoutError:
                message = f"no data for {options.drip_window:g} s"
                raise TransportFailure(message, at=clock.monotonic(), sent=True) from None
            yield chunk
            if watchdog.too_slow(len(chunk), clock.monotonic()):
                raise TransportFailure("the transfer was too slow", at=clock.monotonic(), sent=True)

    async def convert(self, media_type: str) -> ImageFacts:
        """Convert the verified image to another format; return the facts of that file, which is verified too."""
        data = await asyncio.to_thread(lambda: converted(self._partial.read(), media_type))
        self._partial.replace(data)
        await asyncio.to_thread(self._partial.sync)
        return verify(data)

    def publish(self, target: Path, *, overwrite: bool) -> None:
        """Rename the partial file to `target`, and sync its folder."""
        self._partial.publish(target, overwrite=overwrite)

    def discard(self) -> None:
        """Remove the partial file."""
        self._partial.discard()

    def close(self) -> None:
        """Close the partial file and keep it for a later call."""
        self._partial.close()


async def _beginning(stream: Stream) -> bytes:
    """Return the first bytes of a response without an image."""
    body = b""
    async for chunk in stream.chunks():
        body += chunk[:MAX_ERROR]
        if len(body) >= MAX_ERROR:
            break
    return body


def _is_same_image(target: Path, facts: ImageFacts) -> bool:
    try:
        return target.stat().st_size == facts.bytes and verify(target.read_bytes()).sha256 == facts.sha256
    except (OSError, UmrgenError):
        return False


async def _fetch_to_stream(
    transport: Transport, context: CallContext, job_id: str, image_url: str, target: Path, *, coded: bool
) -> tuple[Path, ImageFacts]:
    """Download to a temporary file, then write the verified image to a device, pipe or descriptor."""
    suffix = target.suffix.lower() if target.suffix.lower() in MEDIA_TYPES else ""
    with TemporaryDirectory(prefix="umrgen-") as folder:
        path, facts = await fetch_image(
            transport,
            context,
            job_id,
            image_url,
            Path(folder, f"image{suffix or '.png'}"),
            overwrite=True,
            any_suffix=not suffix,
            coded=coded,
        )
        with translate_disk_errors(target):
            await write_stream(target, path.read_bytes(), context, transport.clock)
    return target, facts


async def fetch_image(
    transport: Transport,
    context: CallContext,
    job_id: str,
    image_url: str,
    target: Path,
    *,
    overwrite: bool,
    any_suffix: bool,
    again: bool = False,
    coded: bool = False,
) -> tuple[Path, ImageFacts]:
    """Save the image at `image_url` as `target`, verified and synced; return its final path and facts.

    With `any_suffix`, the extension follows the image's actual type; otherwise, the image is converted to the type of
    the extension, if that is another. A device, pipe or descriptor is written to when the image is verified. With
    `again` (a second call, after a crash), a target that already holds the same image is a success. `coded`: the errors
    of the server always have a code. Raises the Output… errors, ConnectionFailed, NotUmrgen, TargetUnusable and
    WaitTimeout; then there is no file under the final name, and the bytes received are kept for a later call.
    """
    check_target(target, overwrite=overwrite or again)
    if is_stream(target):
        return await _fetch_to_stream(transport, context, job_id, image_url, target, coded=coded)
    download = Download(transport, context, job_id, target, coded=coded)
    try:
        with translate_disk_errors(target):
            try:
                facts = await download.fetch_verified(image_url)
            except OutputCorrupt as error:
                # Retry from the first byte: a resumed file may be a mix of two versions.
                context.notify(Event("retrying", job_id, str(error), {"code": error.code}))
                download.discard()
                facts = await download.fetch_verified(image_url)
            if any_suffix:
                target = target.with_suffix(EXTENSIONS[facts.media_type])
            elif facts.media_type != (wanted := MEDIA_TYPES.get(target.suffix.lower(), facts.media_type)):
                facts = await download.convert(wanted)
            if not (again and _is_same_image(target, facts)):
                try:
                    await asyncio.to_thread(download.publish, target, overwrite=overwrite)
                except FileExistsError:  # another process may have just saved the same image
                    if not (again and _is_same_image(target, facts)):
                        raise
            if again:
                await asyncio.to_thread(sync, target)  # the first call may have ended before it synced the folder
    except (UmrgenError, OSError) as error:
        if isinstance(error, UmrgenError) and error.job_id is None:
            error.job_id = job_id
        resumable = isinstance(error, ConnectionFailed | ServerError | NotUmrgen | RateLimited | TimeoutError)
        download.close() if resumable else download.discard()
        raise
    except BaseException:
        download.close()
        raise
    download.discard()
    context.notify(Event("saved", job_id, str(target), {"path": str(target), "bytes": facts.bytes}))
    return target, facts
