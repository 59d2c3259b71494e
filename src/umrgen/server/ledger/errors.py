"""The errors of a ledger."""

from umrgen.errors import UmrgenError

__all__ = [
    "DailyLimit",
    "IdempotencyConflict",
    "LedgerDamaged",
    "LedgerTooNew",
    "LedgerUnavailable",
    "OutputExpired",
    "QueueFull",
    "TemplatesFull",
    "TooManyJobs",
    "UploadsFull",
]


class LedgerUnavailable(UmrgenError):
    """The ledger cannot be read or written now; nothing was changed."""

    code = "ledger_unavailable"
    retryable = True
    next = "Check for a full disk, or for another program that locks the file."


class LedgerDamaged(UmrgenError):
    """The file of the ledger is damaged, or is not a ledger."""

    code = "ledger_damaged"
    next = "See `umrgen ledger check`; then stop the server, and put back a file of `umrgen ledger backup`."


class LedgerTooNew(UmrgenError):
    """A newer version of UMRGEN wrote this ledger."""

    code = "ledger_too_new"
    next = "Start it with that version; an older one does not understand its records."


class IdempotencyConflict(UmrgenError):
    """This Idempotency-Key was used for another request body."""

    code = "idempotency_conflict"
    next = "Use a new Idempotency-Key for a new request."


class QueueFull(UmrgenError):
    """The session has as many queued jobs as it may."""

    code = "queue_full"
    retryable = True


class TooManyJobs(UmrgenError):
    """The session has as many queued or running jobs as it may; `job_id` is the one that has run longest."""

    code = "concurrent_limit"
    retryable = True


class DailyLimit(UmrgenError):
    """The session has submitted its daily limit of jobs; the next one is accepted at `until` (ms since the epoch)."""

    code = "rate_limited"
    retryable = True

    def __init__(self, *, until: int) -> None:
        super().__init__()
        self.until = until


class TemplatesFull(UmrgenError):
    """The session has as many templates as it may."""

    code = "too_many_templates"


class UploadsFull(UmrgenError):
    """The session has as many reference images as it may."""

    code = "too_many_references"


class OutputExpired(UmrgenError):
    """The image is on record, and retention has deleted its file."""

    code = "output_expired"
