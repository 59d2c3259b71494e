"""Waiting for the changes of other servers: notifications that carry the last change number, and no polling."""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any

import psycopg

from umrgen.server.ledger.errors import LedgerUnavailable
from umrgen.server.ledger.postgres.connection import CHANNEL, PostgresAddress
from umrgen.server.ledger.postgres.failures import describe

__all__ = ["ChangeListener"]

log = logging.getLogger(__name__)

SILENCE, ANSWER = 5.0, 10.0
"""Seconds without a notification after which a query is sent, and seconds within which PostgreSQL must answer. A
network that passes nothing on closes no connection."""
RETRY = 0.5
"""Seconds between two attempts to connect again."""


class ChangeListener:
    """A task that calls `on_number` with each change number that any server commits, and None after each connecting.

    None means: numbers may have been missed. So a lost notification loses nothing.
    """

    def __init__(self, address: PostgresAddress, on_number: Callable[[int | None], Coroutine[Any, Any, None]]) -> None:
        self._address = address
        self._on_number = on_number
        self._lost_at: float | None = None
        self._task: asyncio.Task[None] | None = None
        self._connection: psycopg.AsyncConnection

    def check(self) -> None:
        """Raise LedgerUnavailable while the connection is lost: callers do not wait for an address without answer."""
        if self._lost_at is not None:
            raise LedgerUnavailable(
                "the connection to PostgreSQL is lost", next="See the first line about it in the log."
            )

    async def start(self) -> None:
        """Start listening; return when numbers are received. Raises LedgerUnavailable."""
        await self._connect()
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            await self._connection.close()

    async def _run(self) -> None:
        while True:
            try:
                await self._listen()
            except (psycopg.Error, LedgerUnavailable) as error:
                self._report_lost(error)
            except Exception:
                log.exception("changes of other servers could not be observed; the listener connects again")
                await asyncio.sleep(RETRY)
            await self._connection.close()
            await self._reconnect()

    async def _listen(self) -> None:
        await self._in_time(self._on_number(None))
        while True:
            async for notification in self._connection.notifies(timeout=SILENCE):
                await self._in_time(self._on_number(_number(notification.payload)))
            await self._in_time(self._connection.execute("SELECT"))

    async def _in_time(self, answer: Coroutine[Any, Any, Any]) -> None:
        """Wait for something that needs an answer of PostgreSQL. Raises LedgerUnavailable after ANSWER seconds."""
        waiting = asyncio.create_task(answer)
        try:
            if not (await asyncio.wait([waiting], timeout=ANSWER))[0]:
                lost = LedgerUnavailable(f"PostgreSQL did not answer for {ANSWER:g} s")
                self._report_lost(lost)  # now: to give the connection up takes psycopg some seconds
                raise lost
            waiting.result()
        finally:
            waiting.cancel()
            await asyncio.wait([waiting])

    async def _connect(self) -> None:
        try:
            connection = await psycopg.AsyncConnection.connect(autocommit=True, **self._address.parameters)
            self._connection = connection
            await connection.execute(f"LISTEN {CHANNEL}")
        except psycopg.Error as error:
            raise self._address.unavailable(error) from None

    async def _reconnect(self) -> None:
        while True:
            try:
                await self._connect()
                self._report_back()
                return
            except LedgerUnavailable:
                await self._connection.close()
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


def _number(payload: str) -> int | None:
    """Return the change number of a notification; None for that of another program on the same channel."""
    return int(payload) if payload.isascii() and payload.isdigit() else None
