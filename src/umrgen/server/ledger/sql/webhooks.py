"""The store of webhooks: written with the end of their job, found when they are due."""

import secrets
from collections.abc import Collection, Sequence
from dataclasses import asdict
from urllib.parse import urlsplit

from umrgen.server.domain.job import Job
from umrgen.server.ledger.sql.database import Database, Row, SqlConnection
from umrgen.server.ledger.values import Webhook, WebhookState

__all__ = ["SqlWebhookStore", "enter_webhook"]


def enter_webhook(connection: SqlConnection, job: Job, *, now: int) -> None:
    """Write the webhook that reports the end of `job`, due from `now` on."""
    url = job.request.webhook_url
    assert url is not None and job.completed_at is not None
    webhook = Webhook(
        id=f"msg_{secrets.token_hex(16)}",
        job_id=job.id,
        session_id=job.session_id,
        key_id=job.key_id,
        url=url,
        host=_host(url),
        state=WebhookState.PENDING,
        attempts=0,
        next_at=now,
        created_at=job.completed_at,
    )
    connection.send("insert_webhook", asdict(webhook) | {"state": webhook.state.value})


def _host(url: str) -> str:
    """Return the host; "" for an invalid URL, which must not prevent the end of a job."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


_STATE = list(Webhook.__dataclass_fields__).index("state")


def _webhook_of(row: Row) -> Webhook:
    values = list(row)
    values[_STATE] = WebhookState(values[_STATE])
    return Webhook(*values)


class SqlWebhookStore:
    """Implements `WebhookStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def due(
        self,
        *,
        now: int,
        limit: int,
        ids: Collection[str] = (),
        hosts: Collection[str] = (),
        sessions: Collection[str] = (),
    ) -> list[Webhook]:
        values = {"now": now, "limit": limit, "ids": ids, "hosts": hosts, "sessions": sessions}
        rows = await self._database.read(lambda connection: connection.all("due_webhooks", values))
        return [_webhook_of(row) for row in rows]

    async def count_pending(self) -> int:
        row = await self._database.read(lambda connection: connection.one("count_pending_webhooks"))
        return 0 if row is None else int(row[0])

    async def next_at(self, *, after: int) -> int | None:
        row = await self._database.read(lambda connection: connection.one("next_webhook", {"after": after}))
        return None if row is None or row[0] is None else int(row[0])

    async def record_attempt(
        self,
        webhook_id: str,
        *,
        state: WebhookState,
        attempts: int,
        next_at: int | None = None,
        delivered_at: int | None = None,
        last_error: str | None = None,
    ) -> bool:
        values = {
            "id": webhook_id,
            "state": state.value,
            "attempts": attempts,
            "next_at": next_at,
            "delivered_at": delivered_at,
            "last_error": last_error,
        }
        return await self._database.write(lambda transaction: transaction.connection.run("record_attempt", values) == 1)

    async def of_jobs(self, job_ids: Sequence[str]) -> dict[str, Webhook]:
        rows = await self._database.read(lambda connection: connection.all("webhooks_of", {"job_ids": job_ids}))
        return {webhook.job_id: webhook for webhook in map(_webhook_of, rows)}
