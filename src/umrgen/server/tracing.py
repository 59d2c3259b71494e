"""OpenTelemetry spans, if its package is installed and configured; otherwise no-ops at almost no cost.

The operator configures the exporter, for example with `opentelemetry-instrument umrgen serve`.
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
    """Return a span as a context manager. With a request's `headers`, its parent is the span that they name.

    The value has `set_attribute`.
    """
    if trace is None or isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        return _NO_SPAN  # installed, but no provider is configured
    context = None if headers is None else propagate.extract(headers)
    kind = trace.SpanKind.INTERNAL if headers is None else trace.SpanKind.SERVER
    current: AbstractContextManager[Any] = trace.get_tracer("umrgen").start_as_current_span(
        name, context, kind, attributes
    )
    return current


class _NoSpan:
    """A span that does nothing."""

    def __enter__(self) -> "_NoSpan":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def set_attribute(self, name: str, value: Any) -> None:
        """Do nothing."""


_NO_SPAN = _NoSpan()
