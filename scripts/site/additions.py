"""The parts of pages that only the site has."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from textwrap import dedent

import http_reference
import python_reference

__all__ = ["complete", "navigation"]

ROOT = Path(__file__).parents[2]


def complete(page: str, text: str) -> str:
    """Return the Markdown of docs/`page`.md with the parts that only the site has."""
    return _shown(text) + ADDITIONS.get(page, lambda text: "")(text)


def navigation(index: str) -> str:
    """Return the table of contents of the site: a chapter for each heading of the start page, with the pages linked in
    its list.
    """
    chapters = re.findall(r"^## (.+)\n((?:(?!## ).*\n?)*)", index, re.MULTILINE)
    return "".join(
        _chapter(title, re.findall(r"^- \[[^\]]+\]\(([\w-]+)\.md\)", body, re.MULTILINE)) for title, body in chapters
    )


def _chapter(title: str, pages: list[str]) -> str:
    entries = "\n".join(pages)
    return f"\n```{{toctree}}\n:hidden:\n:caption: {title}\n\n{entries}\n```\n" if pages else ""


def _shown(text: str) -> str:
    """Replace the parts that a Git host shows otherwise: diagrams in Mermaid, and links to the JavaScript client."""
    text = re.sub(r"```mermaid\nstateDiagram-v2\n(.*?)```", _transitions, text, flags=re.DOTALL)
    return text.replace("](../js/README.md)", "](javascript.md#every-call-and-option)")


def _transitions(diagram: re.Match[str]) -> str:
    return f"```text\n{dedent(diagram[1])}```"


def _javascript(text: str) -> str:
    readme = (ROOT / "js" / "README.md").read_text()
    calls = re.sub(r"\A# .*\n", "", readme)
    return "\n## Every call and option\n" + re.sub(r"^(#+ )", r"#\1", calls, flags=re.MULTILINE)


ADDITIONS: Mapping[str, Callable[[str], str]] = {
    "index": navigation,
    "http-api": lambda text: http_reference.page(),
    "python": lambda text: python_reference.page(),
    "javascript": _javascript,
}
