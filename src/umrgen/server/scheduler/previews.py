"""Previews: made only while a caller watches a job; the last one of each job is kept."""

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager

__all__ = ["Previews"]


class Previews:
    """The last preview of each job that is watched."""

    def __init__(self, show: Callable[[str, bool], None], wake: Callable[[str], None]) -> None:
        self._show = show
        self._wake = wake
        self._watchers: Counter[str] = Counter()
        self._last: dict[str, bytes] = {}

    @property
    def watched(self) -> Collection[str]:
        """The ids of the jobs that are watched."""
        return self._watchers.keys()

    @contextmanager
    def watch(self, job_id: str) -> Iterator[None]:
        """Enable previews of this job inside the context."""
        self._watchers[job_id] += 1
        if self._watchers[job_id] == 1:
            self._show(job_id, True)
        try:
            yield
        finally:
            self._watchers[job_id] -= 1
            if not self._watchers[job_id]:
                del self._watchers[job_id]
                self._last.pop(job_id, None)
                self._show(job_id, False)

    def begun(self, job_id: str) -> None:
        """Enable previews of a job whose attempt begins, if it is watched."""
        if job_id in self._watchers:
            self._show(job_id, True)

    def put(self, job_id: str, image: bytes) -> None:
        """Keep a new preview, a JPEG, if the job is still watched, and wake its watchers."""
        if job_id in self._watchers:
            self._last[job_id] = image
            self._wake(job_id)

    def last(self, job_id: str) -> bytes | None:
        """Return the job's last preview, a JPEG."""
        return self._last.get(job_id)
