"""The exception with which a service refuses a request; each transport maps it to its own form."""

from collections.abc import Sequence
from dataclasses import dataclass

from umrgen.errors import UmrgenError

__all__ = ["FieldError", "Quota", "Refusal", "invalid"]


@dataclass(frozen=True, slots=True)
class FieldError:
    """An error in one parameter of a request."""

    field: str
    error: str
    """A predicate ("must be 1 to 50"), or a whole clause."""

    def __str__(self) -> str:
        separator = " " if self.error.startswith(("must ", "is ")) else ": "
        return f"{self.field}{separator}{self.error}"


@dataclass(frozen=True, slots=True)
class Quota:
    """A limit of the caller, and the remaining amount."""

    name: str
    limit: int
    window: int | None = None
    """Seconds over which the limit is counted; None for a limit on concurrent jobs."""
    reset: int | None = None
    """Seconds until the whole limit is available again."""
    remaining: int = 0


class Refusal(UmrgenError):
    """The request is refused; nothing was changed.

    `code` is one of the contract's error codes (section 2). `detail` is a sentence for the caller, in addition to the
    code's general text.
    """

    def __init__(
        self,
        code: str,
        detail: str | None = None,
        *,
        errors: Sequence[FieldError] = (),
        field: str | None = None,
        job_id: str | None = None,
        retry_after: int | None = None,
        quota: Quota | None = None,
    ) -> None:
        """`errors`: every offending parameter; `retry_after`: seconds until a retry may succeed."""
        super().__init__(detail, code=code, job_id=job_id)
        self.detail = detail
        self.errors = tuple(errors)
        self.field = field
        self.retry_after = retry_after
        self.quota = quota


def invalid(errors: Sequence[FieldError]) -> Refusal:
    """Return the refusal of a request with one or more errors."""
    detail = "; ".join(str(each) for each in errors)
    return Refusal("invalid_request", detail, errors=errors, field=errors[0].field)
