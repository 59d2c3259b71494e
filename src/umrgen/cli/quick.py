"""The status of one job, as quickly as a process can ask for it."""

import time

from umrgen.client.address import configured_server
from umrgen.client.flow import CallContext, Options, drive
from umrgen.client.flows.wait import Watch
from umrgen.client.oneshot import OneShot, usable
from umrgen.errors import UmrgenError
from umrgen.model import JOB_ID, Status

__all__ = ["status_once"]


def status_once(job_id: str, base_url: str | None, timeout: float | None) -> Status:
    """One answer of the server, with the patience of a command that somebody looks at. Raises as `AsyncJob.status`."""
    if not JOB_ID.fullmatch(job_id):
        words = "Use an id as `umrgen submit` prints it, for example ext_0123."
        raise UmrgenError(f"{job_id[:80]!r} is no job id", code="bad_job_id", next=words)
    server = configured_server(base_url)
    defaults = Options()
    options = Options(wait=0, patience=defaults.submit_patience, timeout=timeout or defaults.timeout)
    if not usable():
        import asyncio

        return asyncio.run(_pooled(job_id, base_url, options))
    watch = Watch(CallContext(options, time.monotonic()), job_id)
    return drive(watch.next_change(), OneShot(server, options.connect_timeout).send, time.sleep)


async def _pooled(job_id: str, base_url: str | None, options: Options) -> Status:
    from umrgen.client.async_client import AsyncClient

    async with AsyncClient(base_url, timeout=options.timeout, journal=None) as client:
        return await client.job(job_id).status()
