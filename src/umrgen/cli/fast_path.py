"""A fast path for `umrgen status`: one status call without httpx2."""

import time

from umrgen.client.address import Server
from umrgen.client.flow import CallContext, Options, drive
from umrgen.client.flows.wait import StatusPoller
from umrgen.client.stdlib_transport import StdlibTransport, is_supported
from umrgen.errors import JobNotFound
from umrgen.model import Status, check_job_id

__all__ = ["status_once"]


def status_once(job_id: str, server: Server, timeout: float | None = None) -> Status:
    """Return the job's status; retries as a submit does. Raises as `AsyncJob.status`."""
    check_job_id(job_id)
    defaults = Options()
    limit = defaults.timeout if timeout is None else timeout
    options = Options(wait=0, patience=defaults.submit_patience, timeout=limit)
    if not is_supported(server.base_url):
        import asyncio

        return asyncio.run(_status_with_pool(job_id, server, options))
    poller = StatusPoller(CallContext(options, time.monotonic()), job_id)
    try:
        return drive(poller.next_change(), StdlibTransport(server, options.connect_timeout).send, time.sleep)
    except JobNotFound as error:
        from umrgen.client.journal import DefaultJournal  # only needed here
        from umrgen.client.known_jobs import describe_missing

        raise describe_missing(error, DefaultJournal(), server.base_url, server.key_mark) from None


async def _status_with_pool(job_id: str, server: Server, options: Options) -> Status:
    from umrgen.client.async_client import AsyncClient

    async with AsyncClient(server.base_url, server.key, timeout=options.timeout) as client:
        return await client.job(job_id).status()
