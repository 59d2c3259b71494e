"""The server's log: one line per event on stderr, as text or JSON.

Values from callers, such as prompts and paths, are escaped: a line break in them cannot forge a log line.
"""

import atexit
import json
import logging
import queue
import re
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from typing import Any, TextIO

__all__ = ["BackgroundHandler", "RepeatLimit", "set_log_level", "set_up_logs"]

REPEATS = 20
"""Warnings and errors of one kind in a minute; further ones are one a minute, with the number of those left out."""
MINUTE = 60.0
KINDS = 1000
"""Kinds of lines that are counted; the least recent ones are forgotten."""
WAITING = 2000
"""Lines that wait for a slow reader."""
LAST_LINES = 2.0
"""Seconds for which the end of the process waits for the last lines."""

_AMBIGUOUS = re.compile(r"[\s=\"\\]")
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    """Return the fields that were given as `extra`."""
    return {name: value for name, value in vars(record).items() if name not in _STANDARD}


def _printable(text: str) -> str:
    """Escape control characters, which a terminal would execute."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def _quoted(value: Any) -> str:
    """Return the value, quoted if it contains a separator."""
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if _AMBIGUOUS.search(text) else text


@lru_cache(maxsize=1)
def _local_time(seconds: int) -> str:
    """Format a second once for all of its lines."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


class TextFormatter(logging.Formatter):
    """A formatter for people: time, level, logger, message, fields."""

    def format(self, record: logging.LogRecord) -> str:
        more = "".join(f" {name}={_quoted(value)}" for name, value in _fields(record).items() if value is not None)
        when = _local_time(int(record.created))
        line = f"{when},{record.msecs:03.0f} {record.levelname} {record.name}: {record.getMessage()}{more}"
        # A traceback keeps its line breaks.
        trace = f"\n{self.formatException(record.exc_info)}" if record.exc_info else ""
        return _printable(line) + trace


class JsonFormatter(logging.Formatter):
    """A formatter for programs: one JSON object per line."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{record.msecs:03.0f}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str)


class RepeatLimit(logging.Filter):
    """Leaves out warnings and errors that repeat, such as one a second while a disk is full.

    A kind of line is a logger and a message before its values are inserted. REPEATS lines of a kind pass together, then
    one a minute; the next line that passes reports how many were left out.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._now = now
        self._kinds: OrderedDict[tuple[str, str], tuple[float, int]] = OrderedDict()
        """For each kind, when all of its lines may pass again, and the number of lines left out."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING:
            return True
        kind, now = (record.name, str(record.msg)), self._now()
        full_at, left_out = self._kinds.get(kind, (now, 0))
        full_at = max(full_at, now) + MINUTE
        passes = full_at - now <= REPEATS * MINUTE
        self._kinds[kind] = (full_at, 0) if passes else (full_at - MINUTE, left_out + 1)
        self._kinds.move_to_end(kind)
        while len(self._kinds) > KINDS:
            self._kinds.popitem(last=False)
        if passes and left_out:
            record.left_out = left_out  # a field of the line
        return passes


class BackgroundHandler(logging.Handler):
    """A handler that writes lines on a thread: a slow or blocked reader of stderr does not delay the server.

    Beyond WAITING lines, further ones are dropped and counted; the count is the next line.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream
        self._lines: queue.Queue[str] = queue.Queue(WAITING)
        self._dropped = 0
        threading.Thread(target=self._write, name="umrgen-log", daemon=True).start()
        atexit.register(self.flush)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            if self._dropped and not self._lines.full():
                dropped, self._dropped = self._dropped, 0
                message = "%d log lines were dropped: the reader of stderr was too slow"
                lost = logging.LogRecord(__name__, logging.WARNING, "", 0, message, (dropped,), None)
                self._lines.put_nowait(self.format(lost))
            self._lines.put_nowait(self.format(record))
        except queue.Full:
            self._dropped += 1

    def _write(self) -> None:
        while True:
            line = self._lines.get()
            with suppress(OSError, ValueError):  # the reader is gone, or the stream is closed
                self._stream.write(f"{line}\n")
                self._stream.flush()
            self._lines.task_done()

    def flush(self) -> None:
        """Wait until the lines are written, at most LAST_LINES seconds: the reader may be blocked."""
        with self._lines.all_tasks_done:
            self._lines.all_tasks_done.wait_for(lambda: not self._lines.unfinished_tasks, LAST_LINES)


def set_log_level(level: str) -> None:
    """Log lines of this level, such as "info", and of those above it."""
    logging.getLogger("umrgen").setLevel(level.upper())


def set_up_logs(form: str, level: str = "info") -> None:
    """Send log lines to stderr, in the form "text" or "json", from `level` on."""
    handler = BackgroundHandler(sys.stderr)
    handler.addFilter(RepeatLimit())
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    # The source position and the thread are not in the lines; finding them costs more than formatting.
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    set_log_level(level)
    for verbose in ("asyncio", "httpcore2", "httpx2"):
        logging.getLogger(verbose).setLevel(logging.WARNING)
