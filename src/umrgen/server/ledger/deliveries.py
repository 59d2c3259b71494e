"""Webhooks in the ledger's SQL: entered with the end of their job, found when they are due."""

import json
import secrets
from collections.abc import Collection, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from umrgen.server.domain.job import Job
from umrgen.server.ledger import Webhook, WebhookState
from umrgen.server.ledger.queries import load_queries
from umrgen.server.ledger.records import Part
from umrgen.server.ledger.writer import Transaction

__all__ = ["Deliveries", "enter_webhook"]

_SQL = load_queries("sqlite")


def enter_webhook(transaction: Transaction, job: Job, *, now: int) -> None:
    """Write down that the end of `job` is to be told to its caller, from now on."""
    url = job.spec.webhook_url
    assert url is not None
    values = {
        "id": f"msg_{secrets.token_hex(16)}",
        "job_id": job.id,
        "session_id": job.session_id,
        "key_id": job.key_id,
        "url": url,
        "host": _host(url),
        "next_at": now,
        "created_at": job.completed_at,
    }
    transaction.connection.execute(_SQL["insert_webhook"], values)


def _host(url: str) -> str:
    """Never fails: whatever the URL is like, the job must be able to end."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _webhook_of(row: Mapping[str, Any]) -> Webhook:
    return Webhook(**dict(row) | {"state": WebhookState(row["state"])})


class Deliveries(Part):
    """The part of `SqliteLedger` that is about webhooks."""

    async def due_webhooks(
        self,
        *,
        now: int,
        limit: int,
        ids: Collection[str] = (),
        hosts: Collection[str] = (),
        sessions: Collection[str] = (),
    ) -> list[Webhook]:
        but = {"ids": ids, "hosts": hosts, "sessions": sessions}
        values = {name: json.dumps(list(names)) for name, names in but.items()}
        return [_webhook_of(row) for row in self._read("due_webhooks", {"now": now, "limit": limit} | values)]

    async def next_webhook_at(self, *, after: int) -> int | None:
        (earliest,) = self._read("next_webhook", {"after": after}).fetchone()
        return None if earliest is None else int(earliest)

    async def note_delivery(
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

        def operation(transaction: Transaction) -> bool:
            return transaction.connection.execute(_SQL["note_delivery"], values).rowcount == 1

        pending: bool = await self._writer.do(operation)
        return pending

    async def webhooks_of(self, job_ids: Sequence[str]) -> dict[str, Webhook]:
        rows = self._read("webhooks_of", {"job_ids": json.dumps(list(job_ids))})
        return {row["job_id"]: _webhook_of(row) for row in rows}
