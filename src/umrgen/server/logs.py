"""The server's log: one line per event on stderr, as text or JSON.

Values from callers, such as prompts and paths, are escaped: a line break in them cannot forge a log line.
"""

import json
import logging
import re
import sys
import time
from functools import lru_cache
from typing import Any

__all__ = ["set_up_logs"]

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


def set_up_logs(form: str) -> None:
    """Send log lines to stderr, in the form "text" or "json"."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    # The source position and the thread are not in the lines; finding them costs more than formatting.
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    for verbose in ("asyncio", "httpcore2", "httpx2"):
        logging.getLogger(verbose).setLevel(logging.WARNING)
