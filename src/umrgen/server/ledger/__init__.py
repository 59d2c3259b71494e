"""The ledger: every job from its acknowledgement to its end, durably.

One folder per kind of database; `sql` holds the rules and statements that they share.
"""

from collections.abc import Mapping

from umrgen.server.ledger.errors import (
    DailyLimit,
    IdempotencyConflict,
    LedgerDamaged,
    LedgerTooNew,
    LedgerUnavailable,
    OutputExpired,
    QueueFull,
    TemplatesFull,
    TooManyJobs,
    UploadsFull,
)
from umrgen.server.ledger.stores import (
    CallStore,
    CoordinationStore,
    FingerprintStore,
    JobStore,
    KeyStore,
    Ledger,
    OutputStore,
    PreviewStore,
    TemplateStore,
    UploadStore,
    WebhookStore,
    WorkerStore,
)
from umrgen.server.ledger.values import (
    ALL_BITS,
    ALL_JOBS,
    DAY,
    NO_CAPS,
    BatchKey,
    Call,
    Caps,
    ClaimFilter,
    DeletedJobs,
    Idempotency,
    JobCounts,
    JobFilter,
    Key,
    KnownImage,
    LiveWorker,
    OnChange,
    Template,
    UnhashedImage,
    Upload,
    Webhook,
    WebhookState,
)

__all__ = [
    "ALL_BITS",
    "ALL_JOBS",
    "DAY",
    "LEDGERS",
    "LEDGER_TABLES",
    "NO_CAPS",
    "BatchKey",
    "Call",
    "CallStore",
    "Caps",
    "ClaimFilter",
    "CoordinationStore",
    "DailyLimit",
    "DeletedJobs",
    "FingerprintStore",
    "Idempotency",
    "IdempotencyConflict",
    "JobCounts",
    "JobFilter",
    "JobStore",
    "Key",
    "KeyStore",
    "KnownImage",
    "Ledger",
    "LedgerDamaged",
    "LedgerTooNew",
    "LedgerUnavailable",
    "LiveWorker",
    "OnChange",
    "OutputExpired",
    "OutputStore",
    "PreviewStore",
    "QueueFull",
    "Template",
    "TemplateStore",
    "TemplatesFull",
    "TooManyJobs",
    "UnhashedImage",
    "Upload",
    "UploadStore",
    "UploadsFull",
    "Webhook",
    "WebhookState",
    "WebhookStore",
    "WorkerStore",
]

LEDGERS: Mapping[str, str] = {
    "sqlite": "umrgen.server.ledger.sqlite.file:SqliteLedger",
    "memory": "umrgen.server.ledger.sqlite.memory:MemoryLedger",
    "postgresql": "umrgen.server.ledger.postgres.ledger:PostgresLedger",
}
"""By the setting `ledger`, up to its first colon."""

LEDGER_TABLES: Mapping[str, str] = {
    "sqlite": "umrgen.server.ledger.sqlite.tables:SqliteTables",
    "postgresql": "umrgen.server.ledger.postgres.tables:PostgresTables",
}
"""The same for copying a ledger."""
