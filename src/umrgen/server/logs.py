"""The server's log: one line an event on stderr, as text or as JSON, which nobody outside can forge.

What comes from a caller, a prompt or a path, is data: a line break in it never begins a line of its own.
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
    """What was given as `extra`."""
    return {name: value for name, value in vars(record).items() if name not in _STANDARD}


def _printable(text: str) -> str:
    """The text with everything that could move a terminal's cursor written out."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def _quoted(value: Any) -> str:
    """The value, in quotes where it could be taken for more than one."""
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if _AMBIGUOUS.search(text) else text


@lru_cache(maxsize=1)
def _local_time(seconds: int) -> str:
    """One for all lines of a second."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


class TextFormatter(logging.Formatter):
    """For people: time, level, logger, message, and what else is known."""

    def format(self, record: logging.LogRecord) -> str:
        more = "".join(f" {name}={_quoted(value)}" for name, value in _fields(record).items() if value is not None)
        when = _local_time(int(record.created))
        line = f"{when},{record.msecs:03.0f} {record.levelname} {record.name}: {record.getMessage()}{more}"
        # A traceback is ours, and its lines are wanted.
        trace = f"\n{self.formatException(record.exc_info)}" if record.exc_info else ""
        return _printable(line) + trace


class JsonFormatter(logging.Formatter):
    """For programs: one object a line."""

    def format(self, record: logging.LogRecord) -> str:
        told = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{record.msecs:03.0f}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            told["exception"] = self.formatException(record.exc_info)
        return json.dumps(told, default=str)


def set_up_logs(form: str) -> None:
    """Send what the server says to stderr, as "text" or "json"."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    # No line tells from where in the source it came, or from which thread; to find out costs more than the line.
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    for chatty in ("asyncio", "httpcore2", "httpx2"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
