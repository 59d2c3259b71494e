"""Finding what other servers changed in a shared ledger."""

from bisect import bisect_right
from collections import deque

from umrgen.server.domain.job import Job
from umrgen.server.ledger.sql.database import SqlConnection
from umrgen.server.ledger.sql.rows import job_of

__all__ = ["ChangeFeed"]


class ChangeFeed:
    """A cursor over the changes of all servers, which leaves out this server's own.

    The order of change numbers is the order of commits, so everything up to the largest number read has been seen.
    `draw` and `undo` run on the writing thread before the end of the transaction they belong to: when a change can be
    read, its number is known to be this server's own.
    """

    def __init__(self, position: int) -> None:
        self._position = position
        self._own: deque[range] = deque()
        """The numbers that this server drew, in increasing order."""

    def draw(self, numbers: range) -> None:
        self._own.append(numbers)

    def undo(self) -> None:
        self._own.pop()

    def is_behind(self, number: int) -> bool:
        """Return whether other servers made changes up to `number`, which is committed, that were not read.

        Numbers are drawn without gaps, so the position moves over those that this server drew.
        """
        while self._own and self._own[0].start <= self._position + 1 and self._own[0].stop - 1 <= number:
            self._position = max(self._position, self._own.popleft().stop - 1)
        return number > self._position

    def read(self, connection: SqlConnection) -> list[Job]:
        """Return the jobs that other servers changed since the last call, as they are now."""
        rows = connection.all("changed_after", {"after": self._position})
        if not rows:
            return []
        own = list(self._own)
        starts = [numbers.start for numbers in own]

        def is_own(number: int) -> bool:
            index = bisect_right(starts, number) - 1
            return index >= 0 and number in own[index]

        foreign = [job_id for job_id, number in rows if not is_own(number)]
        jobs = [job_of(row) for row in connection.all("get_jobs", {"ids": foreign})] if foreign else []
        self._position = rows[-1][1]  # not before the jobs were read: a failure must not skip them
        while self._own and self._own[0].stop <= self._position:
            self._own.popleft()
        return jobs
