"""The engine process: `python -m umrgen.server.executors.subprocess.worker NAME OPTIONS MEMORY SIGNING WATERMARK`.

Reads frames from standard input and writes frames to its original standard output. When its input ends, the server has
ended, and this process ends too, even while it draws.
"""

import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

from umrgen.server.engines import EngineFailure, load_engine
from umrgen.server.executors.frames import HEAD, MAX_TASKS_BODY, MAX_TASKS_HEAD, pack, unpack_lengths
from umrgen.server.executors.worker import Worker, limit_memory
from umrgen.server.signing import SigningOptions
from umrgen.server.watermark import BadWatermark, load_watermark

__all__ = ["Pipe", "ending_with_this", "main"]


class Pipe:
    """Frames from and to the server."""

    def __init__(self, source: BinaryIO, sink: BinaryIO) -> None:
        self._source = source
        self._sink = sink
        self._sending = threading.Lock()

    @classmethod
    def standard(cls) -> "Pipe":
        """Return the pipe of standard input and output, and let further output go to standard error.

        Libraries print to standard output; that must not get between the frames.
        """
        sink = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        # Not sys.stdin, whose lock the thread that reads holds, and which Python locks when it ends.
        return cls(os.fdopen(os.dup(sys.stdin.fileno()), "rb"), sink)

    def send(self, head: dict[str, Any], body: bytes = b"") -> None:
        with self._sending:
            self._sink.write(pack(head, body))
            self._sink.flush()

    def receive(self) -> tuple[dict[str, Any], bytes]:
        """Return the next frame. When the server has ended, this process ends."""
        head_length, body_length = unpack_lengths(self._read(HEAD.size), (MAX_TASKS_HEAD, MAX_TASKS_BODY))
        head = json.loads(self._read(head_length))
        return head, self._read(body_length)

    def _read(self, count: int) -> bytes:
        data = self._source.read(count)
        if len(data) < count:
            os._exit(0)  # the server has ended
        return data


@contextmanager
def ending_with_this() -> Iterator[None]:
    """End the process when the block raises: one that no longer listens is noticed only when it seems to stall."""
    try:
        yield
    except Exception:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)


def _listen(pipe: Pipe, worker: Worker) -> None:
    """Receive frames: tasks are queued, a cancellation takes effect immediately."""
    with ending_with_this():
        while True:
            worker.receive(*pipe.receive())


def main() -> None:
    name, options = sys.argv[1], json.loads(sys.argv[2])
    limit_memory(int(sys.argv[3]))
    # Ctrl-C and a service manager's SIGTERM reach the whole group. The server handles them, and stops this process.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    pipe = Pipe.standard()
    try:
        engine = load_engine(name, options)
        watermark = load_watermark(sys.argv[5]) if sys.argv[5] else None
    except (EngineFailure, BadWatermark) as failure:
        pipe.send({"is": "unavailable", "error": str(failure)})
        return
    worker = Worker(engine, pipe.send, SigningOptions.from_json(sys.argv[4]), watermark)
    # Before the load, which takes minutes: if the server ends during it, the memory of the GPU has to be given back.
    threading.Thread(target=_listen, args=(pipe, worker), daemon=True).start()
    if worker.load():
        worker.run()


if __name__ == "__main__":
    main()
