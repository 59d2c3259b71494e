"""A cache of the status responses about jobs that are over: each is encoded once, for any number of requests."""

from collections import OrderedDict

from umrgen.server.domain.job import Job
from umrgen.server.http.api.responses import RawResponse

__all__ = ["TerminalResponseCache"]


class TerminalResponseCache:
    """Encoded responses about jobs that are over; the most recent ones are kept."""

    def __init__(self, size: int = 4096) -> None:
        self._size = size
        self._kept: OrderedDict[tuple[str, int | None], tuple[Job, RawResponse]] = OrderedDict()

    def get(self, job: Job, wait: int | None) -> RawResponse | None:
        """Return the response to a long poll of `wait` seconds (None: no long poll), if it was encoded before."""
        kept = self._kept.get((job.id, wait))
        return kept[1] if kept is not None and kept[0] is job else None

    def put(self, job: Job, wait: int | None, answer: RawResponse) -> None:
        self._kept[job.id, wait] = (job, answer)
        if len(self._kept) > self._size:
            self._kept.popitem(last=False)
