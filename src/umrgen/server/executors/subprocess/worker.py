"""The engine's own process: `python -m umrgen.server.executors.subprocess.worker NAME OPTIONS MEMORY`.

Reads frames from standard input, writes frames to what was its standard output. When its input
ends, the server is gone, and so is this process, in the middle of a picture too.
"""

import json
import os
import resource
import signal
import sys
import threading
import traceback
from contextlib import suppress
from dataclasses import asdict
from io import BytesIO
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, BinaryIO

from umrgen.server.engines import Cancelled, DrawRequest, Engine, EngineFailure, load_engine
from umrgen.server.engines.provenance import source_type, text_chunks
from umrgen.server.executors.subprocess.frames import HEAD, Frame, pack, unpack_lengths
from umrgen.server.png import encode_png

if TYPE_CHECKING:
    from collections.abc import Callable

    from umrgen.server.engines import Pixels

__all__ = ["main"]

PREVIEW_SIDE = 384
"""Pixels; the longer side of a preview."""


def _read_exactly(pipe: BinaryIO, count: int) -> bytes:
    data = pipe.read(count)
    if len(data) < count:
        os._exit(0)  # the server is gone; nobody is left to tell
    return data


class Worker:
    """One engine and the pipe to the server."""

    def __init__(self, engine: Engine, source: BinaryIO, sink: BinaryIO) -> None:
        self._engine = engine
        self._source = source
        self._sink = sink
        self._tasks: SimpleQueue[Frame] = SimpleQueue()
        self._cancelled: set[str] = set()
        self._shown: set[str] = set()

    def run(self) -> None:
        try:
            self._engine.load()
        except EngineFailure as failure:
            self._send({"is": "unavailable", "error": str(failure)})
            return
        threading.Thread(target=self._listen, daemon=True).start()
        self._send({"is": "ready", "info": asdict(self._engine.info)})
        while True:
            head, body = self._tasks.get()
            self._send(*self._answer(head, body))

    def _listen(self) -> None:
        """Sort what comes in: pictures to draw wait their turn, a cancellation acts at once."""
        while True:
            head_length, body_length = unpack_lengths(_read_exactly(self._source, HEAD.size))
            head = json.loads(_read_exactly(self._source, head_length))
            body = _read_exactly(self._source, body_length)
            match head["do"]:
                case "cancel":
                    self._cancelled.add(head["job_id"])
                case "show":
                    (self._shown.add if head["wanted"] else self._shown.discard)(head["job_id"])
                case _:
                    self._tasks.put((head, body))

    def _send(self, head: dict[str, Any], body: bytes = b"") -> None:
        self._sink.write(pack(head, body))
        self._sink.flush()

    def _answer(self, head: dict[str, Any], body: bytes) -> Frame:
        job_id: str = head["job_id"]
        try:
            return self._draw(job_id, _request(head, body))
        except Cancelled:
            return {"is": "cancelled", "job_id": job_id}, b""
        except EngineFailure as failure:
            return {"is": "failed", "job_id": job_id, "error": str(failure)}, b""
        # Who knows what else has failed by now: the server replaces a process that says the following.
        except MemoryError:
            return {"is": "broken", "job_id": job_id, "error": "it ran out of memory"}, b""
        except Exception as error:
            # A traceback shows paths: it goes to the operator's log, never to the user.
            traceback.print_exc()
            return {"is": "broken", "job_id": job_id, "error": f"it raised {type(error).__name__}"}, b""
        finally:
            self._cancelled.discard(job_id)
            self._shown.discard(job_id)

    def _draw(self, job_id: str, request: DrawRequest) -> Frame:
        def report(step: int, total: int, preview: "Callable[[], Pixels] | None" = None) -> None:
            if job_id in self._cancelled:
                raise Cancelled
            body = _small_jpeg(preview()) if preview is not None and job_id in self._shown and step < total else b""
            self._send({"is": "step", "job_id": job_id, "step": step, "total": total}, body)

        pixels = self._engine.draw(request, report)
        info = self._engine.info
        data = encode_png(pixels, text_chunks(request, info, job_id), source_type=source_type(info))
        height, width, _ = pixels.shape
        return {"is": "done", "job_id": job_id, "width": width, "height": height}, data


def _small_jpeg(pixels: "Pixels") -> bytes:
    """A preview: something to look at now, gone in a second."""
    from PIL import Image

    image = Image.fromarray(pixels)
    image.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE))
    encoded = BytesIO()
    image.save(encoded, "JPEG", quality=70)
    return encoded.getvalue()


def _request(head: dict[str, Any], body: bytes) -> DrawRequest:
    fields = dict(head["request"])
    references, at = [], 0
    for length in head["references"]:
        references.append(body[at : at + length])
        at += length
    fields["loras"] = tuple((name, strength) for name, strength in fields["loras"])
    return DrawRequest(**fields, references=tuple(references))


def _be_modest(memory: int) -> None:
    """Let this process be the one that dies when memory runs out: of `memory` MiB, if given, or of the machine's."""
    if memory:
        # What is allocated, not what is mapped: GPU drivers reserve far more addresses than they use.
        resource.setrlimit(resource.RLIMIT_DATA, (memory << 20, memory << 20))
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500")


def main() -> None:
    name, options = sys.argv[1], json.loads(sys.argv[2])
    _be_modest(int(sys.argv[3]))
    # Ctrl-C, and a service manager's end of everybody, are for the server, which lets us finish and then stops us.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    # Libraries print; what they print must not get between the frames.
    sink = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    try:
        engine = load_engine(name, options)
    except EngineFailure as failure:
        sink.write(pack({"is": "unavailable", "error": str(failure)}))
        sink.flush()
        return
    Worker(engine, sys.stdin.buffer, sink).run()


if __name__ == "__main__":
    main()
