"""Spans of OpenTelemetry (extra ``otel``): one per request under the caller's ``traceparent``, one per stage below it.

Where they go is said by OpenTelemetry's own environment (``OTEL_EXPORTER_OTLP_ENDPOINT``, ``OTEL_TRACES_SAMPLER``,
``OTEL_SERVICE_NAME``, …).  They leave from a thread of their own; a span that is sampled costs its request about 60 µs,
one that is not 10 µs, and without ``--otel`` nothing is imported.
"""

import os
import time
from typing import TYPE_CHECKING

from suisen.errors import need_extra
from suisen.serving.exchange import Exchange
from suisen.version import __version__

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace.export import SpanExporter

SERVICE = "suisen"
"""Name of the service, where the environment gives none."""


def exporter() -> "SpanExporter":
    """What sends spans: OTLP over HTTP."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return OTLPSpanExporter()


class Tracing:
    """Records requests as spans."""

    def __init__(self) -> None:
        """Raises MissingExtra where OpenTelemetry is not installed."""
        need_extra("otel", "opentelemetry")
        from opentelemetry import trace
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        named = {} if "OTEL_SERVICE_NAME" in os.environ else {"service.name": SERVICE}
        self.provider = TracerProvider(
            resource=Resource.create({**named, "service.version": __version__}), shutdown_on_exit=False
        )
        self.provider.add_span_processor(BatchSpanProcessor(exporter()))
        self._trace, self._tracer = trace, self.provider.get_tracer("suisen", __version__)

    def record(self, exchange: Exchange, status: int) -> None:
        """A request that ends now, with the stages that it marked."""
        trace = self._trace
        end, now = time.time_ns(), time.perf_counter()

        def at(moment: float) -> int:
            return end - int((now - moment) * 1e9)

        span = self._tracer.start_span(
            f"{exchange.method or 'HTTP'} {exchange.route}",
            context=self._parent(exchange),
            kind=trace.SpanKind.SERVER,
            start_time=at(exchange.started),
        )
        if span.is_recording():
            span.set_attributes(
                {
                    "http.request.method": exchange.method or "_OTHER",
                    "http.route": exchange.route,
                    "http.response.status_code": status,
                    "suisen.request_id": exchange.request_id,
                }
            )
            if status >= 500:
                span.set_status(trace.StatusCode.ERROR)
            below, began = trace.set_span_in_context(span), exchange.started
            for stage, ended in exchange.marks:
                self._tracer.start_span(stage, context=below, start_time=at(began)).end(at(ended))
                began = ended
        span.end(end)

    def stop(self) -> None:
        """Sends what is not sent yet."""
        self.provider.shutdown()

    def _parent(self, exchange: Exchange) -> "Context | None":
        """The caller's span, where it names one."""
        given = exchange.trace
        if given is None:
            return None
        trace = self._trace
        flags = trace.TraceFlags(given[2] & 1)
        caller = trace.SpanContext(int(given[0], 16), int(given[1], 16), is_remote=True, trace_flags=flags)
        context: Context = trace.set_span_in_context(trace.NonRecordingSpan(caller))
        return context
