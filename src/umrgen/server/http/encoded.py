"""Jobs in JSON. One that is over is encoded once, however many ask for it."""

from typing import Any

import msgspec

from umrgen.jobs import Job, job_to_wire

__all__ = ["Encoded"]

KEPT = 4096


class Encoded:
    """The answers about jobs that are over, as bytes; those of the last few thousand are kept."""

    def __init__(self) -> None:
        self._encoder = msgspec.json.Encoder()
        self._bodies: dict[str, tuple[Job, bytes]] = {}

    def body(self, job: Job, **view: Any) -> bytes:
        """The job as `job_to_wire` puts it."""
        if not job.over:
            return self._encoder.encode(job_to_wire(job, **view))
        kept = self._bodies.get(job.id)
        if kept is not None and kept[0] is job:
            return kept[1]
        encoded = self._encoder.encode(job_to_wire(job))
        if len(self._bodies) >= KEPT:
            del self._bodies[next(iter(self._bodies))]
        self._bodies[job.id] = (job, encoded)
        return encoded
