"""Fetching an image: from a URL to a verified file under its final name, or to an error with nothing left."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from pathlib import Path

from umrgen.client.flow import CallContext, Event, Reply, RetryBudget, TransportFailure, retry_after
from umrgen.client.flows.download import ThroughputWatchdog, announced_size, redirect_target, resolve_output
from umrgen.client.partial import Partial, check_target, disk_trouble
from umrgen.client.protocol import limited_delay
from umrgen.client.transport import Stream, Transport
from umrgen.durable import sync
from umrgen.errors import ConnectionFailed, OutputCorrupt, RateLimited, ServerError, UmrgenError
from umrgen.image_files import EXTENSIONS, ImageFacts, digest_from_headers, verify

__all__ = ["fetch"]

MAX_REDIRECTS = 5


class Fetch:
    """One image's way from its URL into its file."""

    def __init__(self, transport: Transport, run: CallContext, job_id: str, target: Path) -> None:
        self._transport = transport
        self._run = run
        self._job_id = job_id
        self._partial = Partial(target, job_id)
        self._patience = RetryBudget(run, run.options.patience)
        self._limited = RetryBudget(run, float("inf"))
        self._asked: float | None = None
        self._fruitless = 0
        self._length: int | None = None
        self._digest: str | None = None

    async def bytes_verified(self, image_url: str) -> ImageFacts:
        """Get the whole image into the partial file and check it."""
        base, foreign = self._transport.base_url, self._run.options.follow_foreign
        url, with_key = resolve_output(base, image_url, follow_foreign=foreign)
        await self._whole(url, with_key)
        data = await asyncio.to_thread(self._partial.read)
        return verify(data, length=self._length, sha256=self._digest)

    async def _whole(self, url: str, with_key: bool) -> None:
        """Ask until the body has come to its end."""
        redirects = 0
        while True:
            self._run.now = self._transport.clock.monotonic()
            if self._run.left <= 0:
                raise self._run.timed_out(self._job_id)
            before = self._partial.have.size
            try:
                location = await self._attempt(url, with_key)
            except TransportFailure as failure:
                delay = self._bear(
                    ConnectionFailed(f"the download broke off: {failure}", job_id=self._job_id),
                    fruitless=self._partial.have.size <= before,
                )
            except RateLimited as error:
                delay = self._limited.bear(error, self._asked, job_id=self._job_id)
            except ServerError as error:
                delay = self._patience.bear(error, self._asked, job_id=self._job_id)
            except ValueError:
                self._partial.drop()  # what is there is of another version
                delay = self._bear(OutputCorrupt("the image changes while it is sent"), fruitless=True)
            else:
                if location is None:
                    return
                redirects += 1
                if redirects > MAX_REDIRECTS:
                    raise OutputCorrupt("the image's address redirects without end", code="redirect_loop")
                foreign = self._run.options.follow_foreign
                url, with_key = redirect_target(self._transport.base_url, url, location, follow_foreign=foreign)
                continue
            await self._transport.clock.sleep(min(delay, max(0.0, self._run.left)))

    def _bear(self, error: UmrgenError, *, fruitless: bool) -> float:
        """Seconds until the next try; a try that brought bytes starts the count again."""
        self._run.now = self._transport.clock.monotonic()
        if not fruitless:
            self._fruitless = 0
            if isinstance(error, ConnectionFailed):
                self._patience.good()
        self._fruitless += fruitless
        if self._fruitless >= self._run.options.download_tries:
            raise error
        return self._patience.bear(error, job_id=self._job_id)

    async def _attempt(self, url: str, with_key: bool) -> str | None:
        """One request. The address of a redirect, or None when the body came to its end."""
        transport, run = self._transport, self._run
        headers = self._partial.have.headers()
        async with transport.stream(
            url, headers, with_key=with_key, begin=run.options.request_timeout, timeout=max(0.001, run.left)
        ) as stream:
            run.now = transport.clock.monotonic()
            answer = Reply(stream.status, stream.headers, b"", at=run.now, wall=transport.clock.wall())
            limited = stream.status == 429
            self._asked = limited_delay(run, answer, self._limited) if limited else retry_after(answer)
            if 300 <= stream.status < 400 and (location := stream.headers.get("location")):
                return location
            self._partial.begin(stream.status, stream.headers)
            self._length = announced_size(stream.status, stream.headers)
            self._digest = digest_from_headers(stream.headers, partial=stream.status == 206)
            async with aclosing(self._watched(stream)) as chunks:
                await self._take_in(chunks)
        if self._length is not None and self._partial.have.size < self._length:
            raise TransportFailure("the body ended early", at=transport.clock.monotonic(), sent=True)
        return None

    async def _take_in(self, chunks: AsyncIterator[bytes]) -> None:
        have, run = self._partial.have, self._run
        async for chunk in chunks:
            if have.size + len(chunk) > run.options.max_bytes:
                raise OutputCorrupt(f"the image is larger than {run.options.max_bytes} bytes", code="too_large")
            self._partial.write(chunk)
            run.notify(Event("download", self._job_id, data={"bytes": have.size, "total": self._length}))

    async def _watched(self, stream: Stream) -> AsyncGenerator[bytes, None]:
        """The chunks; a drip, or a silence, of `drip_window` seconds breaks the transfer off."""
        clock, options = self._transport.clock, self._run.options
        drip = ThroughputWatchdog(clock.monotonic(), rate=options.drip_rate, window=options.drip_window)
        chunks = aiter(stream.chunks())
        while True:
            try:
                async with asyncio.timeout(options.drip_window):
                    chunk = await anext(chunks)
            except StopAsyncIteration:
                return
            except TimeoutError:
                silence = f"nothing came for {options.drip_window:g} s"
                raise TransportFailure(silence, at=clock.monotonic(), sent=True) from None
            yield chunk
            if drip.too_slow(len(chunk), clock.monotonic()):
                raise TransportFailure("it came too slowly", at=clock.monotonic(), sent=True)

    def publish(self, target: Path, *, overwrite: bool) -> None:
        self._partial.publish(target, overwrite=overwrite)

    def drop(self) -> None:
        self._partial.drop()

    def keep(self) -> None:
        self._partial.keep()


def _holds(target: Path, facts: ImageFacts) -> bool:
    """Whether `target` is this image."""
    try:
        return target.stat().st_size == facts.bytes and verify(target.read_bytes()).sha256 == facts.sha256
    except (OSError, UmrgenError):
        return False


async def fetch(
    transport: Transport,
    run: CallContext,
    job_id: str,
    image_url: str,
    target: Path,
    *,
    overwrite: bool,
    any_suffix: bool,
    again: bool = False,
) -> tuple[Path, ImageFacts]:
    """Save the image at `image_url` as `target`, verified and synced; give its final path and facts.

    With `any_suffix` the extension follows the image's true type. With `again` (a second try, after a crash)
    a target that holds this very image already is a success. Raises Output… errors, ConnectionFailed,
    TargetUnusable and WaitTimeout; then nothing has the final name, and what was got is kept for a later try.
    """
    check_target(target, overwrite=overwrite or again)
    attempt = Fetch(transport, run, job_id, target)
    try:
        with disk_trouble(target):
            try:
                facts = await attempt.bytes_verified(image_url)
            except OutputCorrupt as error:
                # Once more from the first byte: what was resumed may have been patched together.
                run.notify(Event("retrying", job_id, str(error), {"code": error.code}))
                attempt.drop()
                facts = await attempt.bytes_verified(image_url)
            if any_suffix:
                target = target.with_suffix(EXTENSIONS[facts.media_type])
            if again and _holds(target, facts):
                await asyncio.to_thread(sync, target)  # the earlier try may have ended before it synced the folder
            else:
                await asyncio.to_thread(attempt.publish, target, overwrite=overwrite)
    except (UmrgenError, OSError) as error:
        if isinstance(error, UmrgenError) and error.job_id is None:
            error.job_id = job_id
        resumable = isinstance(error, ConnectionFailed | ServerError | RateLimited | TimeoutError)
        attempt.keep() if resumable else attempt.drop()
        raise
    except BaseException:
        attempt.keep()
        raise
    attempt.drop()
    run.notify(Event("saved", job_id, str(target), {"path": str(target), "bytes": facts.bytes}))
    return target, facts
