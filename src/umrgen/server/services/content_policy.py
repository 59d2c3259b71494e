"""The operator's content policy: a function, or a file with forbidden terms."""

import asyncio
import inspect
import logging
import re
import unicodedata
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from typing import Any

from umrgen.errors import UmrgenError
from umrgen.paths import user_path
from umrgen.server.running_time import RunningTimeout
from umrgen.server.settings import BadSettings

__all__ = ["PolicyFailed", "PromptPolicy", "load_policy"]

log = logging.getLogger(__name__)

SECONDS = 10.0
"""The timeout of a policy function."""

Check = Callable[[str], Any]
"""Takes a prompt; returns None to accept it, or a reason, which is sent to the caller. May be a coroutine function."""


class PolicyFailed(UmrgenError):
    """The operator's policy function failed, so no prompt is accepted."""

    code = "internal"


class PromptPolicy:
    """Applies the operator's policy function to prompts. A function that fails accepts none."""

    def __init__(self, check: Check) -> None:
        self._check = check
        # A separate thread pool: a policy function that blocks must not occupy the event loop's executor.
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="umrgen-policy")

    async def refusal(self, prompt: str) -> str | None:
        """Return the reason for which a prompt is refused; None if it is accepted. Raises PolicyFailed."""
        try:
            async with RunningTimeout(SECONDS):
                reason = await self._call(prompt)
        except Exception as error:
            # Only the type: the exception's text may contain the prompt, which is not logged.
            log.error("the policy failed: %s", type(error).__name__)
            raise PolicyFailed from None
        return None if reason is None else str(reason)

    async def _call(self, prompt: str) -> Any:
        if inspect.iscoroutinefunction(self._check):
            return await self._check(prompt)
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._check, prompt)


class TermList:
    """A policy that refuses prompts with a forbidden term. Terms match as a whole, in upper or lower case."""

    def __init__(self, lines: list[str]) -> None:
        """`lines`: one term a line, of one or more words; lines that begin with # are comments."""
        terms = [_normalized(line) for line in lines if line.strip() and not line.lstrip().startswith("#")]
        # A space in a term matches any separators in the prompt.
        parts = [r"[\W_]+".join(map(re.escape, term.split())) for term in terms]
        self._pattern = re.compile(rf"(?<![^\W_])(?:{'|'.join(parts)})(?![^\W_])") if parts else None

    def __call__(self, prompt: str) -> str | None:
        if self._pattern and self._pattern.search(_normalized(prompt)):
            return "the prompt contains a term that this server does not accept"
        return None


def _normalized(text: str) -> str:
    """Return the text with full-width, decomposed, upper-case and invisible characters normalized."""
    composed = unicodedata.normalize("NFKC", text).casefold()
    return "".join(char for char in composed if not _invisible(char)).strip()


def _invisible(char: str) -> bool:
    """Return whether the character is invisible: a format character, variation selector or grapheme joiner."""
    return (
        unicodedata.category(char) == "Cf" or char == "\u034f" or "\ufe00" <= char <= "\ufe0f" or char >= "\U000e0100"
    )


def load_policy(setting: str) -> PromptPolicy | None:
    """Return the policy that a setting names: none (""), `module:function`, or a file. Raises BadSettings."""
    if not setting:
        return None
    path = user_path(setting)
    if path.is_file():
        try:
            return PromptPolicy(TermList(path.read_text().splitlines()))
        except (OSError, UnicodeDecodeError) as error:
            raise BadSettings(f"the word list {path} cannot be read: {error}") from None
    module, _, name = setting.partition(":")
    if not name:
        raise BadSettings(f"policy must name an existing file, or module:function; got {setting!r}")
    try:
        check = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise BadSettings(f"the policy {setting!r} cannot be imported: {error}") from None
    if not callable(check):
        raise BadSettings(f"the policy {setting!r} is not callable")
    return PromptPolicy(check)
