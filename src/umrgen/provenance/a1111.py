"""The text in which AUTOMATIC1111's web UI, and tools after it, write the settings of an image into a PNG."""

import re

from umrgen.provenance.record import Provenance

__all__ = ["parameters_of", "parameters_text"]

_SETTING = re.compile(r'\s*([\w ]+):\s*("(?:\\.|[^"\\])*"|[^,]*)(?:,|$)')
_NEGATIVE = "Negative prompt: "


def parameters_text(record: Provenance) -> str:
    """Return the settings of a record in this form."""
    lines = [record.prompt] if record.prompt else []
    if record.prompt is not None and record.negative:
        lines.append(_NEGATIVE + record.negative)
    settings = {
        "Steps": record.steps,
        "Sampler": record.engine,
        "CFG scale": record.cfg,
        "Seed": record.seed,
        "Size": f"{record.width}x{record.height}" if record.width and record.height else None,
        "Model": record.model or record.engine,
        "Version": f"UMRGEN {record.version}",
    }
    lines.append(", ".join(f"{name}: {value}" for name, value in settings.items() if value not in (None, "")))
    return "\n".join(lines)


def parameters_of(text: str) -> Provenance | None:
    """Return the record in a text of this form; None for another text. The source type is that of a model."""
    *head, last = text.strip().split("\n")
    settings = {name.strip(): value.strip().strip('"') for name, value in _SETTING.findall(last)}
    if "Steps" not in settings:
        return None
    prompt, _, negative = "\n".join(head).partition(_NEGATIVE)
    width, _, height = settings.get("Size", "").partition("x")
    return Provenance(
        "trainedAlgorithmicMedia",
        prompt=prompt.strip() or None,
        negative=negative.strip() or None,
        seed=_integer(settings.get("Seed")),
        steps=_integer(settings["Steps"]),
        cfg=_float(settings.get("CFG scale")),
        width=_integer(width),
        height=_integer(height),
        model=settings.get("Model") or None,
    )


def _integer(text: str | None) -> int | None:
    return int(text) if text and re.fullmatch(r"\d{1,18}", text) else None


def _float(text: str | None) -> float | None:
    return float(text) if text and re.fullmatch(r"\d{1,6}(\.\d{1,6})?", text) else None
