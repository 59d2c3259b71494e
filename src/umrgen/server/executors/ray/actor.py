"""The engine in a Ray actor: the worker of the subprocess executor, with the items of streams for its messages."""

import os
import threading
from collections.abc import Iterator
from queue import SimpleQueue
from typing import Any

import ray

from umrgen import __version__
from umrgen.server.engines import EngineFailure, load_engine
from umrgen.server.executors.frames import Frame
from umrgen.server.executors.ray.spec import EngineSpec
from umrgen.server.executors.worker import Worker, limit_memory
from umrgen.server.signing import SigningOptions
from umrgen.server.watermark import BadWatermark, load_watermark

__all__ = ["ENGINES_IN_RAY", "EngineActor"]

FINAL = ("done", "cancelled", "failed", "broken")
"""The messages that end a job."""


class EngineActor:
    """One engine. It is not restarted and no call is repeated: only the ledger decides about retries."""

    def __init__(self, spec: EngineSpec) -> None:
        self._spec = spec
        self._worker: Worker | None = None
        self._loading: SimpleQueue[Frame] = SimpleQueue()
        self._of_job: dict[str, SimpleQueue[Frame]] = {}
        """The stream of each job that is not over."""
        self._of_batch: dict[int, SimpleQueue[Frame]] = {}
        self._lock = threading.Lock()

    @ray.method(concurrency_group="life")  # type: ignore[untyped-decorator]
    def live(self) -> Iterator[Frame]:
        """Yield where the engine is and whether it was loaded; then draw, until the actor is killed."""
        yield {"is": "placed", "node": ray.util.get_node_ip_address(), "version": __version__}, b""
        self._load()
        yield self._loading.get()
        if self._worker is not None:
            self._worker.run()

    def _load(self) -> None:
        spec = self._spec
        limit_memory(spec.memory)
        os.environ["UMRGEN_DEVICE"] = "0"  # Ray hides the other devices of the node from this process
        try:
            engine = load_engine(spec.engine, spec.options)
            watermark = load_watermark(spec.watermark) if spec.watermark else None
        except (EngineFailure, BadWatermark) as failure:
            self._loading.put(({"is": "unavailable", "error": str(failure)}, b""))
            return
        worker = Worker(engine, self._send, SigningOptions.from_json(spec.signing), watermark)
        if worker.load():
            self._worker = worker

    @ray.method(concurrency_group="commands")  # type: ignore[untyped-decorator]
    def receive(self, head: dict[str, Any], body: bytes) -> None:
        """Handle a command. Ray keeps the order of these calls: a job is cancelled after it was received."""
        if head["do"] == "draw":
            stream = self._stream(head["batch"])
            with self._lock:
                self._of_job.update((task["job_id"], stream) for task in head["tasks"])
        if self._worker is not None:
            self._worker.receive(head, body)

    @ray.method(concurrency_group="batches")  # type: ignore[untyped-decorator]
    def follow(self, batch: int, jobs: int) -> Iterator[Frame]:
        """Yield the messages about the jobs of a batch, until all of them are over."""
        stream = self._stream(batch)
        while jobs:
            head, body = stream.get()
            jobs -= head["is"] in FINAL
            yield head, body
        with self._lock:
            del self._of_batch[batch]

    def _stream(self, batch: int) -> "SimpleQueue[Frame]":
        with self._lock:
            return self._of_batch.setdefault(batch, SimpleQueue())

    def _send(self, head: dict[str, Any], body: bytes) -> None:
        """Put a message into the stream of its job."""
        if "job_id" not in head:
            self._loading.put((head, body))
            return
        with self._lock:
            over = head["is"] in FINAL
            stream = self._of_job.pop(head["job_id"]) if over else self._of_job[head["job_id"]]
        stream.put((head, body))


ENGINES_IN_RAY: Any = ray.remote(
    max_restarts=0,
    max_task_retries=0,
    # A batch is drawn while the one before is encoded; between the two, a third may have been sent already.
    concurrency_groups={"life": 1, "commands": 1, "batches": 4},
)(EngineActor)
"""The class of actors."""
