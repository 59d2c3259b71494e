"""The public names of the package `umrgen`, from their docstrings, as directives of Sphinx in Markdown."""

from collections.abc import Sequence

import umrgen

__all__ = ["CHAPTERS", "page"]

CHAPTERS = {
    "Clients": ("umrgen.Client", "umrgen.AsyncClient", "umrgen.wait_and_download"),
    "Jobs": ("umrgen.client.client.SyncJob", "umrgen.client.job.AsyncJob", "umrgen.State", "umrgen.Status"),
    "Results": (
        "umrgen.SavedImage",
        "umrgen.ListedJob",
        "umrgen.ReferenceImage",
        "umrgen.Capabilities",
        "umrgen.Event",
    ),
    "Options": ("umrgen.Options",),
    "Provenance": ("umrgen.verify", "umrgen.Verification", "umrgen.Provenance"),
}


def page() -> str:
    """Return a section for each chapter, then all errors, then the public names that no chapter has."""
    errors = sorted((f"umrgen.{name}" for name in umrgen.__all__ if _is_error(name)), key=_depth)
    chapters = {**CHAPTERS, "Errors and warnings": errors}
    known = {name.rpartition(".")[2] for names in chapters.values() for name in names}
    further = [f"umrgen.{name}" for name in umrgen.__all__ if name not in known]
    return "".join(_chapter(title, names) for title, names in {**chapters, "Further names": further}.items() if names)


def _chapter(title: str, names: Sequence[str]) -> str:
    directives = "\n".join(map(_directive, names))
    return f"\n## {title}\n\n```{{eval-rst}}\n{directives}```\n"


def _directive(name: str) -> str:
    value = getattr(umrgen, name.rpartition(".")[2], None)
    if _is_error(name.rpartition(".")[2]):
        return f".. autoexception:: {name}\n   :show-inheritance:\n"
    if value is not None and not isinstance(value, type):
        return f".. autofunction:: {name}\n"
    return f".. autoclass:: {name}\n   :members:\n"


def _is_error(name: str) -> bool:
    value = getattr(umrgen, name, None)
    return isinstance(value, type) and issubclass(value, Exception)


def _depth(name: str) -> tuple[int, str]:
    return len(getattr(umrgen, name.rpartition(".")[2]).__mro__), name
