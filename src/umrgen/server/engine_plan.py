"""`umrgen engine plan` and `pull`: what would run here, without loading or downloading it; and the download."""

from collections.abc import Callable
from typing import Any

from umrgen.errors import UmrgenError
from umrgen.server.engines import EngineFailure, load_engine
from umrgen.server.engines.diffusers.families import FAMILIES, Family, family_of
from umrgen.server.engines.diffusers.plan import Plan
from umrgen.server.engines.diffusers.pull import pull
from umrgen.server.model_choice import choose
from umrgen.server.settings import Settings

__all__ = ["engine_plan", "pull_model"]

GIB = 1 << 30
CHECK = "umrgen engine check --model {model} loads it, and prints what it can do"


def engine_plan(settings: Settings) -> dict[str, Any]:
    """Return the engine for `settings.model` and how it would be loaded on this machine, as rows for people.

    Raises UmrgenError for a model that is on this machine and cannot be loaded.
    """
    model = settings.model
    rows: dict[str, Any] = {"model": model, "engine": settings.engine, "reason": choose(model).reason}
    if settings.engine != "diffusers":
        return rows | {"next": CHECK.format(model=model)}
    try:
        plans = load_engine("diffusers", settings.options_of_engine).plans()
    except EngineFailure as failure:
        if (family := _family_by_name(model)) is None:
            raise UmrgenError(str(failure), code="bad_engine") from None
        return rows | _family_rows(family) | {"not here": str(failure)}
    (chosen, *_) = plans.values()
    return rows | _plan_rows(chosen)


def _plan_rows(plan: Plan) -> dict[str, Any]:
    return {
        "device": plan.device,
        "dtype": plan.dtype,
        "quantization": "none",
        "offload": plan.offload,
        "attention": plan.attention,
        "compile": "yes" if plan.compile else "no",
        "batch": f"up to {plan.max_batch} jobs together",
        "weights": f"{plan.weights / GIB:.1f} GiB",
        "memory": f"{plan.expected / GIB:.1f} GiB while it draws (an estimate)",
        "fits": "yes" if plan.fits else "no: choose a smaller model, or a machine with more memory",
    }


def _family_by_name(model: str) -> Family | None:
    """Return the family whose name is a part of the model's name: all that is known of one that is not here."""
    name = model.rpartition("/")[2].lower().replace("_", "-")
    labels = {family.label.lower().replace(" ", "-"): family for family in FAMILIES.values() if family.label}
    found = [label for label in labels if label in name]
    if not found:
        return None
    family = labels[max(found, key=len)]
    return family_of({"_class_name": family.pipeline}, model) or family


def _family_rows(family: Family) -> dict[str, Any]:
    guidance = {} if family.guidance is None else {"cfg": f"{family.guidance:g}"}
    return {
        "family": family.label or family.pipeline,
        "steps": family.steps,
        **guidance,
        "licence": family.licence,
        "memory": family.memory,
    }


def pull_model(model: str, revision: str | None, progress: Callable[[str, int, int], None]) -> dict[str, Any]:
    """Download a model of the hub. Raises UmrgenError."""
    if choose(model).engine != "diffusers":
        raise UmrgenError(f"{model!r} is no model of the hub", code="usage", next="Give a name as owner/name.")
    try:
        files = pull(model, revision, progress)
    except EngineFailure as failure:
        raise UmrgenError(str(failure), code="bad_engine") from None
    except ImportError:
        raise UmrgenError("diffusers is not installed", next="pip install 'umrgen[server,diffusers]'") from None
    return {"model": model, "revision": files.revision, "family": files.family.label or files.family.pipeline}
