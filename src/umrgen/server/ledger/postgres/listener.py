"""Waiting for the changes of other servers: notifications that carry the last change number, and no polling."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

import psycopg

from umrgen.server.ledger.errors import LedgerUnavailable
from umrgen.server.ledger.postgres.connection import CHANNEL, PostgresAddress
from umrgen.server.ledger.postgres.failures import describe

__all__ = ["ChangeListener"]

log = logging.getLogger(__name__)

RETRY = 0.5
"""Seconds between two attempts to connect again."""


class ChangeListener:
    """A task that calls `on_number` with each change number that any server commits, and None after each connecting.

    None means: numbers may have been missed. So a lost notification loses nothing.
    """

    def __init__(self, address: PostgresAddress, on_number: Callable[[int | None], Awaitable[None]]) -> None:
        self._address = address
        self._on_number = on_number
        self._lost_at: float | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start listening; return when numbers are received. Raises LedgerUnavailable."""
        connection = await self._connect()
        self._task = asyncio.create_task(self._run(connection))

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self, connection: psycopg.AsyncConnection) -> None:
        while True:
            try:
                async with connection:
                    await self._listen(connection)
            except (psycopg.Error, LedgerUnavailable) as error:
                self._report_lost(error)
            connection = await self._reconnect()

    async def _listen(self, connection: psycopg.AsyncConnection) -> None:
        await self._on_number(None)
        async for notification in connection.notifies():
            await self._on_number(int(notification.payload))

    async def _connect(self) -> psycopg.AsyncConnection:
        try:
            connection = await psycopg.AsyncConnection.connect(autocommit=True, **self._address.parameters)
            await connection.execute(f"LISTEN {CHANNEL}")
        except psycopg.Error as error:
            raise self._address.unavailable(error) from None
        return connection

    async def _reconnect(self) -> psycopg.AsyncConnection:
        while True:
            with suppress(LedgerUnavailable):
                connection = await self._connect()
                self._report_back()
                return connection
            await asyncio.sleep(RETRY)

    def _report_lost(self, error: psycopg.Error | LedgerUnavailable) -> None:
        if self._lost_at is None:
            self._lost_at = time.monotonic()
            text = describe(error, self._address.password) if isinstance(error, psycopg.Error) else str(error)
            log.error("the connection to PostgreSQL was lost; calls that need it get 503 until it is back: %s", text)

    def _report_back(self) -> None:
        if self._lost_at is not None:
            log.warning("PostgreSQL is back after %.1f s", time.monotonic() - self._lost_at)
            self._lost_at = None
