"""Spans for OpenTelemetry, where its package is installed and set up; otherwise nothing, at next to no cost.

Which exporter they go to is the operator's business: `opentelemetry-instrument umrgen serve`, say.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

__all__ = ["span"]

try:
    from opentelemetry import propagate, trace
except ImportError:
    trace = None  # type: ignore[assignment]


def span(
    name: str, attributes: Mapping[str, Any] | None = None, *, headers: Mapping[str, str] | None = None
) -> AbstractContextManager[Any]:
    """A span around what is done in this context; given a request's headers, below the one that they name.

    Gives something with `set_attribute`.
    """
    if trace is None or isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        return _NOTHING  # installed by something else's wish: nobody has said where spans go
    context = None if headers is None else propagate.extract(headers)
    kind = trace.SpanKind.INTERNAL if headers is None else trace.SpanKind.SERVER
    current: AbstractContextManager[Any] = trace.get_tracer("umrgen").start_as_current_span(
        name, context, kind, attributes
    )
    return current


class _Nothing:
    """Stands where a span would."""

    def __enter__(self) -> "_Nothing":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def set_attribute(self, name: str, value: Any) -> None:
        """There is nobody to hear it."""


_NOTHING = _Nothing()
