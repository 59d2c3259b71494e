"""The public names of the package `umrgen`, from their docstrings, as directives of Sphinx in Markdown."""

import umrgen

__all__ = ["CHAPTERS", "page"]

CHAPTERS = {
    "Clients": ("umrgen.Client", "umrgen.AsyncClient", "umrgen.wait_and_download"),
    "Jobs": ("umrgen.client.client.SyncJob", "umrgen.client.job.AsyncJob", "umrgen.State", "umrgen.Status"),
    "Results": ("umrgen.SavedImage", "umrgen.ListedJob", "umrgen.Capabilities", "umrgen.Event"),
    "Options": ("umrgen.Options",),
    "Provenance": ("umrgen.verify", "umrgen.Verification", "umrgen.Provenance"),
}


def page() -> str:
    """Return a section for each chapter, then all errors. Every public name is in one of them."""
    errors = [f"umrgen.{name}" for name in umrgen.__all__ if _is_error(name)]
    chapters = {**CHAPTERS, "Errors and warnings": sorted(errors, key=_depth)}
    missing = set(umrgen.__all__) - {name.rpartition(".")[2] for names in chapters.values() for name in names}
    if missing:
        raise ValueError(f"public names without a chapter in {__name__}.CHAPTERS: {sorted(missing)}; add them there")
    return "".join(_chapter(title, names) for title, names in chapters.items())


def _chapter(title: str, names: "tuple[str, ...] | list[str]") -> str:
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
