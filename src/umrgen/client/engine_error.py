"""The reason of a failed job, in short: the first servers send up to 300 characters of ComfyUI's nested JSON."""

import json
import re

__all__ = ["short_reason"]


def short_reason(error: str) -> str:
    """Return `error.message` and the first `details` of `node_errors` of ComfyUI's JSON; any other text unchanged."""
    nested = error.replace('\\"', '"')
    if not re.search(r'\{\s*"error"|"node_errors"', nested):
        return error
    head, _, nodes = nested.partition('"node_errors"')
    parts = [_value("message", head) or _value("message", nodes), _value("details", nodes) or _value("details", head)]
    return ": ".join(part for part in parts if part) or error


def _value(name: str, text: str) -> str:
    """Return the first value of a member that is not empty; one that was cut off ends with an ellipsis."""
    for match in re.finditer(rf'"{name}"\s*:\s*"((?:[^"\\]|\\.)*)("?)', text):
        if match[1].strip():
            return _unescaped(match[1]) + ("" if match[2] else "…")
    return ""


def _unescaped(text: str) -> str:
    try:
        return str(json.loads(f'"{text}"', strict=False)).strip()
    except ValueError:
        return text.strip()
