"""The answers about jobs that are over, ready to be sent: each is put together once, however many ask for it."""

from collections import OrderedDict
from collections.abc import Iterable

from umrgen.jobs import Job

__all__ = ["Endings", "pack"]

KEPT = 4096


def pack(headers: Iterable[tuple[bytes, bytes]], body: bytes) -> bytes:
    """What follows the status line and the headers that every answer has."""
    lines = [part for name, value in headers for part in (name, b": ", value, b"\r\n")]
    return b"".join((*lines, b"\r\n", body))


class Endings:
    """Packed answers about jobs that are over; the last few thousand are kept."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, int | None], tuple[Job, bytes]] = OrderedDict()

    def get(self, job: Job, wait: int | None) -> bytes | None:
        """The answer to a caller who asked to be held for `wait` seconds, if it was put together before."""
        kept = self._kept.get((job.id, wait))
        return kept[1] if kept is not None and kept[0] is job else None

    def keep(self, job: Job, wait: int | None, answer: bytes) -> None:
        self._kept[job.id, wait] = (job, answer)
        if len(self._kept) > KEPT:
            self._kept.popitem(last=False)
