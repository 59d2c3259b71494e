"""The `EngineInfo` of the models that the engine has."""

from collections.abc import Sequence
from importlib.metadata import version
from math import lcm

from umrgen.model import LIMITS
from umrgen.server.engines import EngineInfo
from umrgen.server.engines.diffusers.model_files import ModelFiles
from umrgen.server.engines.diffusers.options import DiffusersOptions
from umrgen.server.engines.diffusers.session import ModelSession

__all__ = ["engine_info"]


def _features(models: Sequence[ModelFiles], session: ModelSession, loras: Sequence[str]) -> tuple[str, ...]:
    found = {feature for model in models for feature in model.family.features}
    found |= {"previews"} if session.has_previews else set()
    found |= {"loras"} if loras else set()
    return tuple(sorted(found))


def engine_info(
    models: Sequence[ModelFiles], options: DiffusersOptions, session: ModelSession, loras: Sequence[str]
) -> EngineInfo:
    """Return the information about all models, with the guidance scale and the revision of the loaded one.

    The engine has a feature if one of its models has it; a request for a model without it fails by name.
    """
    family = session.family
    cfg = family.guidance if options.cfg is None or family.distilled else options.cfg
    return EngineInfo(
        name="diffusers",
        kind="model",
        version=version("diffusers"),
        size_multiple=lcm(*(model.family.size_multiple for model in models)),
        max_steps=LIMITS.steps_max,
        default_steps=options.steps or models[0].family.steps,
        features=_features(models, session, loras),
        models=tuple(model.name for model in models),
        loras=tuple(loras),
        default_cfg=cfg,
        revision=session.revision,
        notes=tuple(
            note
            for note in (
                session.plan.line(),
                session.caps.line(),
                f"licence: {family.licence}",
                f"memory of others: {family.memory}",
            )
            if note
        ),
        max_batch=session.caps.most,
        model_steps={} if options.steps else {model.name: model.family.steps for model in models},
    )
