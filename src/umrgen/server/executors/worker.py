"""The work of an engine: messages with tasks in, messages with steps and images out."""

import resource
import traceback
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, cast

from umrgen.server.engines import (
    BatchEngine,
    Cancelled,
    DrawTask,
    EncodedImage,
    Engine,
    EngineFailure,
    OutOfMemory,
    Phase,
)
from umrgen.server.engines.encoding import encoded, preview_jpeg
from umrgen.server.executors.frames import Frame
from umrgen.server.executors.task_message import unpack_tasks
from umrgen.server.signing import ManifestSigner, SigningOptions
from umrgen.server.thumbnails import prepare
from umrgen.server.watermark import Watermark

if TYPE_CHECKING:
    from collections.abc import Callable

    from umrgen.server.engines import Pixels

    Send = Callable[[dict[str, Any], bytes], None]
    """Sends a message to the server; called by several threads."""

__all__ = ["Worker", "limit_memory"]

OUT_OF_MEMORY = "it needs more memory than the engine has; lower width and height, or use fewer reference images"


class _Report:
    """Implements `Report` for one task, over the pipe."""

    def __init__(self, worker: "Worker", job_id: str, images: int) -> None:
        self._worker = worker
        self._job_id = job_id
        self.images = images
        """Drawn together with this one, itself included."""

    def __call__(self, step: int, total: int, preview: "Callable[[], Pixels | EncodedImage] | None" = None, /) -> None:
        self._worker.check_cancelled(self._job_id)
        wanted = preview is not None and step < total and self._worker.shows(self._job_id)
        body = preview_jpeg(preview()) if wanted and preview is not None else b""
        self._worker.send({"is": "step", "job_id": self._job_id, "step": step, "total": total}, body)

    def phase(self, phase: Phase, /) -> None:
        self._worker.check_cancelled(self._job_id)
        self._worker.send({"is": "phase", "job_id": self._job_id, "phase": str(phase)})

    def together(self, images: int, /) -> None:
        self.images = images


class Worker:
    """One engine, and its messages to and from the server."""

    def __init__(
        self,
        engine: Engine,
        send: "Send",
        signing: SigningOptions | None = None,
        watermark: Watermark | None = None,
    ) -> None:
        self._engine = engine
        self._watermark = watermark
        self._send = send
        self._signer = ManifestSigner(signing) if signing is not None else None
        self._tasks: SimpleQueue[Frame] = SimpleQueue()
        self._encoder = ThreadPoolExecutor(1)
        """Encodes the images of a batch while the next batch is drawn."""
        self._encoding: list[Future[None]] = []
        self._open: set[str] = set()
        """The jobs that were received and are not finished. Messages about any other job are dropped: they are late."""
        self._cancelled: set[str] = set()
        self._shown: set[str] = set()

    def load(self) -> bool:
        """Load the engine, and send whether that succeeded."""
        try:
            self._engine.load()
            prepare()  # now, because a drawing has less time than the load
        except EngineFailure as failure:
            self.send({"is": "unavailable", "error": str(failure)})
            return False
        self.send({"is": "ready", "info": asdict(self._engine.info)})
        return True

    def run(self) -> None:
        """Draw the received tasks, without end."""
        while True:
            self._draw(unpack_tasks(*self._tasks.get()))

    def receive(self, head: dict[str, Any], body: bytes) -> None:
        """Handle a frame: queue a task; note at once that a job is cancelled, or watched."""
        if head["do"] == "draw":
            self._open.update(task["job_id"] for task in head["tasks"])
            self._tasks.put((head, body))
        elif head["job_id"] in self._open:
            noted = self._cancelled if head["do"] == "cancel" else self._shown
            (noted.add if head.get("wanted", True) else noted.discard)(head["job_id"])

    def send(self, head: dict[str, Any], body: bytes = b"") -> None:
        self._send(head, body)

    def check_cancelled(self, job_id: str) -> None:
        """Raise Cancelled if the job was cancelled."""
        if job_id in self._cancelled:
            raise Cancelled

    def shows(self, job_id: str) -> bool:
        """Return whether a caller watches the job."""
        return job_id in self._shown

    def _draw(self, tasks: list[DrawTask]) -> None:
        """Draw tasks together, and start to encode their images when those of the batch before are encoded."""
        reports = [_Report(self, task.job_id, len(tasks)) for task in tasks]
        results = self._results(tasks, reports)
        wait(self._encoding)
        self._encoding.clear()
        for task, report, result in zip(tasks, reports, results, strict=True):
            if isinstance(result, BaseException):
                self._finish(task.job_id, result)
            else:
                self.send({"is": "drawn", "job_id": task.job_id})
                self._encoding.append(self._encoder.submit(self._encode, task, result, report.images))

    def _results(
        self, tasks: list[DrawTask], reports: list[_Report]
    ) -> "Sequence[Sequence[Pixels | EncodedImage] | BaseException]":
        try:
            if len(tasks) == 1:
                return [self._engine.draw(tasks[0], reports[0])]
            results = cast(BatchEngine, self._engine).draw_batch(tasks, reports)
            if len(results) != len(tasks):
                raise ValueError(f"{len(results)} results for {len(tasks)} tasks")
            return results
        except Exception as error:
            return [error] * len(tasks)

    def _encode(self, task: DrawTask, images: "Sequence[Pixels | EncodedImage]", batch: int) -> None:
        try:
            for drawn in images:
                self.check_cancelled(task.job_id)
                image = encoded(drawn, task, self._engine.info, batch, self._signer, self._watermark)
                head = {"is": "image", "job_id": task.job_id, "media_type": image.media_type, "pdq": image.pdq.hex()}
                self.send(head | {"thumbnail": len(image.thumbnail)}, image.data + image.thumbnail)
            self._finish(task.job_id, None)
        except Exception as error:
            self._finish(task.job_id, error)

    def _finish(self, job_id: str, error: BaseException | None) -> None:
        """Send the final message about a job."""
        for noted in (self._open, self._cancelled, self._shown):
            noted.discard(job_id)
        self.send({"job_id": job_id} | _ending(error))


def _ending(error: BaseException | None) -> dict[str, Any]:
    match error:
        case None:
            return {"is": "done"}
        case Cancelled():
            return {"is": "cancelled"}
        case EngineFailure():
            return {"is": "failed", "error": str(error), "code": error.code}
        case MemoryError():  # an allocation was refused, which changes nothing in the process
            return {"is": "failed", "error": OUT_OF_MEMORY, "code": OutOfMemory.code}
    # The state of the process is unknown after any other exception: the server replaces it after "broken". A traceback
    # contains paths: it goes to the operator's log, never to the user.
    traceback.print_exception(error)
    return {"is": "broken", "error": f"it raised {type(error).__name__}"}


def limit_memory(memory: int) -> None:
    """Limit this process to `memory` MiB, if not 0, and let the kernel choose it first when memory runs out."""
    if memory:
        # Allocated memory, not address space: GPU drivers reserve far more addresses than they use.
        resource.setrlimit(resource.RLIMIT_DATA, (memory << 20, memory << 20))
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500")
