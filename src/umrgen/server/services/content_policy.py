"""The operator's word on what is not drawn here: a function of his own, or a list of words."""

import asyncio
import inspect
import logging
import re
import unicodedata
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Any

from umrgen.errors import UmrgenError
from umrgen.server.settings import BadSettings

__all__ = ["PolicyFailed", "PromptPolicy", "load_policy"]

log = logging.getLogger(__name__)

SECONDS = 10.0
"""How long a policy may think; then it has not answered."""

Check = Callable[[str], Any]
"""Given a prompt: None to let it pass, or a reason, which the caller reads. May be a coroutine function."""


class PolicyFailed(UmrgenError):
    """The operator's policy did not answer; so nothing passes."""

    code = "internal"


class PromptPolicy:
    """Says why a prompt is refused, or None. What fails to answer refuses."""

    def __init__(self, check: Check) -> None:
        self._check = check
        # Threads of its own: a policy that blocks must not occupy the event loop's executor.
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="umrgen-policy")

    async def refusal(self, prompt: str) -> str | None:
        """The reason, in words for the caller. Raises PolicyFailed."""
        try:
            async with asyncio.timeout(SECONDS):
                reason = await self._ask(prompt)
        except Exception as error:
            # Its words may be the prompt's, which is not for the log.
            log.error("the policy failed: %s", type(error).__name__)
            raise PolicyFailed from None
        return None if reason is None else str(reason)

    async def _ask(self, prompt: str) -> Any:
        if inspect.iscoroutinefunction(self._check):
            return await self._check(prompt)
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._check, prompt)


class WordList:
    """Words and phrases, one a line; a line that begins with # is a comment. Whole words match, in any case."""

    def __init__(self, lines: list[str]) -> None:
        words = [_plain(line) for line in lines if line.strip() and not line.lstrip().startswith("#")]
        # Spaces in a phrase match whatever stands between its words.
        parts = [r"[\W_]+".join(map(re.escape, word.split())) for word in words]
        self._pattern = re.compile(rf"(?<![^\W_])(?:{'|'.join(parts)})(?![^\W_])") if parts else None

    def __call__(self, prompt: str) -> str | None:
        if self._pattern and self._pattern.search(_plain(prompt)):
            return "the prompt has a word in it that is not drawn here"
        return None


def _plain(text: str) -> str:
    """One form for all the ways to write the same letters: full width, accents apart, capitals, invisible marks."""
    composed = unicodedata.normalize("NFKC", text).casefold()
    return "".join(char for char in composed if not _invisible(char)).strip()


def _invisible(char: str) -> bool:
    """Whether the character is invisible: formats, variation selectors, the joiner of graphemes."""
    return (
        unicodedata.category(char) == "Cf" or char == "\u034f" or "\ufe00" <= char <= "\ufe0f" or char >= "\U000e0100"
    )


def load_policy(setting: str) -> PromptPolicy | None:
    """The policy that a setting names: nothing, `module:function`, or a file. Raises BadSettings."""
    if not setting:
        return None
    path = Path(setting).expanduser()
    if path.is_file():
        try:
            return PromptPolicy(WordList(path.read_text().splitlines()))
        except (OSError, UnicodeDecodeError) as error:
            raise BadSettings(f"the word list {path} cannot be read: {error}") from None
    module, _, name = setting.partition(":")
    if not name:
        raise BadSettings(f"policy must name a file that is there, or module:function; not {setting!r}")
    try:
        check = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise BadSettings(f"the policy {setting!r} cannot be imported: {error}") from None
    if not callable(check):
        raise BadSettings(f"the policy {setting!r} is no function")
    return PromptPolicy(check)
