"""Text from elsewhere (servers, engines, gateways, file names), made safe to print; and the patterns of its names."""

import json
import re
from typing import Any

__all__ = ["ERROR_CODE", "JOB_ID", "printable", "printable_json"]

JOB_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,127}")
"""The pattern of a job id, which is part of paths and file names."""
ERROR_CODE = re.compile(r"[a-z][a-z0-9_]{0,63}")
"""The pattern of a `code` or `error_code`."""
LONGEST = 1000
"""Characters to which a text is shortened."""
UNPRINTABLE = re.compile(r"[\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff\ufff9-\ufffb]")
"""The characters that JSON does not escape, and that a terminal executes, hides or cannot encode."""


def printable(text: str, limit: int = LONGEST) -> str:
    """Return `text` as one line that a terminal only shows, of at most `limit` characters.

    White space, line breaks included, becomes a space; a control character, a bidirectional override, a lone surrogate
    or any other character that cannot be printed becomes U+FFFD.
    """
    if len(text) <= limit and text.isprintable():
        return text
    shown = "".join(
        char if char.isprintable() else " " if char.isspace() else "\N{REPLACEMENT CHARACTER}"
        for char in text[: 4 * limit]
    )
    line = " ".join(shown.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def printable_json(data: Any) -> str:
    """Return `data` as JSON in one line, with an escape for each character that must not be printed."""
    text = json.dumps(data, ensure_ascii=False)
    return UNPRINTABLE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)
