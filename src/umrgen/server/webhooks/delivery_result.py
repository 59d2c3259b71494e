"""How an attempt at a delivery can end. The texts are for the receiver, and disclose nothing of this network."""

from dataclasses import dataclass

__all__ = ["Answer", "PermanentFailure", "TransientFailure", "judge"]


@dataclass(frozen=True, slots=True)
class Answer:
    """What the receiver said."""

    status: int
    retry_after: str | None = None


class TransientFailure(Exception):
    """It did not arrive; a later attempt may."""

    def __init__(self, words: str, *, retry_after: str | None = None) -> None:
        super().__init__(words)
        self.retry_after = retry_after


class PermanentFailure(Exception):
    """It did not arrive, and no later attempt will."""


def judge(answer: Answer) -> None:
    """Return for an answer that says it has arrived. Raises Undelivered or Hopeless for any other."""
    status = answer.status
    if 200 <= status < 300:
        return
    if status == 410:
        raise PermanentFailure("the receiver answered 410: it wants no more of these")
    words = f"the receiver answered {status}"
    if 300 <= status < 400:
        words += ", a redirect, and redirects are not followed"
    raise TransientFailure(words, retry_after=answer.retry_after)
