"""The results of an attempt to deliver. The texts are for the receiver, and disclose nothing of this network."""

from dataclasses import dataclass

__all__ = ["PermanentFailure", "ReceiverResponse", "TransientFailure", "classify"]


@dataclass(frozen=True, slots=True)
class ReceiverResponse:
    """The response of a receiver."""

    status: int
    retry_after: str | None = None


class TransientFailure(Exception):
    """This attempt failed; a later one may succeed."""

    def __init__(self, reason: str, *, retry_after: str | None = None) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


class PermanentFailure(Exception):
    """The delivery failed, and is not tried again."""


def classify(response: ReceiverResponse) -> None:
    """Return for a response that confirms the delivery. Raises TransientFailure or PermanentFailure for any other."""
    status = response.status
    if 200 <= status < 300:
        return
    if status == 410:
        raise PermanentFailure("the receiver responded 410 (gone)")
    reason = f"the receiver responded {status}"
    if 300 <= status < 400:
        reason += ", a redirect, and redirects are not followed"
    raise TransientFailure(reason, retry_after=response.retry_after)
