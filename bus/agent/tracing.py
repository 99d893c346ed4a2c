"""Traces go along with messages: the W3C trace context of the span in which something is published stands in its headers.

Only in a program that has imported OpenTelemetry (`pip install tpmbus[trace]`), and only while a span is active; nobody else pays
for it but one look when a topic is published on for the first time.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

TRACEPARENT: Final = "traceparent"
TRACESTATE: Final = "tracestate"


def is_on() -> bool:
    """Whether somebody in this program may make spans."""
    return "opentelemetry.trace" in sys.modules


def with_trace(headers: Mapping[str, str] | None) -> Mapping[str, str] | None:
    """These headers and those of the current span, if there is one; what the caller said himself stays."""
    from opentelemetry import trace  # noqa: PLC0415  only where it is installed
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415  the same

    if not trace.get_current_span().get_span_context().is_valid:
        return headers
    carried: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carried)
    return carried | dict(headers) if headers else carried


def trace_context(headers: Mapping[str, str]) -> Any:
    """OpenTelemetry's context of who published: the parent of spans for what is done about it.

        with tracer.start_as_current_span("build", context=bus.trace_context(message.headers)): ...

    Raises ModuleNotFoundError where OpenTelemetry is not installed.
    """
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415  only where it is installed

    return TraceContextTextMapPropagator().extract(dict(headers))


@contextmanager
def within(headers: Mapping[str, str]) -> Iterator[None]:
    """What is published and traced in here belongs to the trace of who published these headers."""
    from opentelemetry import context  # noqa: PLC0415  only where it is installed

    token = context.attach(trace_context(headers))
    try:
        yield
    finally:
        context.detach(token)
