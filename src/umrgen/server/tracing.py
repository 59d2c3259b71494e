"""Spans for OpenTelemetry, where its package is installed and set up; otherwise nothing, at next to no cost.

Which exporter they go to is the operator's business: `opentelemetry-instrument umrgen serve`, say.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

__all__ = ["span"]

try:
    from opentelemetry import propagate, trace
except ImportError:
    trace = None  # type: ignore[assignment]


@contextmanager
def span(
    name: str, attributes: Mapping[str, Any] | None = None, *, headers: Mapping[str, str] | None = None
) -> Iterator[Any]:
    """A span around what is done in this context; given a request's headers, below the one that they name.

    Gives something with `set_attribute`.
    """
    if trace is None or isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        yield _Nothing  # installed by something else's wish: nobody has said where spans go
        return
    context = None if headers is None else propagate.extract(headers)
    kind = trace.SpanKind.INTERNAL if headers is None else trace.SpanKind.SERVER
    tracer = trace.get_tracer("umrgen")
    with tracer.start_as_current_span(name, context, kind, attributes) as current:
        yield current


class _Nothing:
    @staticmethod
    def set_attribute(name: str, value: Any) -> None:
        """There is nobody to hear it."""
