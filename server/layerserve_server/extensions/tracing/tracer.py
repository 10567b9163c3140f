"""Traces by OpenTelemetry: a span for each sampled call, with its stages as child spans.

The standard variables OTEL_* set them up, and the SDK's sampler, resource, processor and exporters do the rest. On the
path of a request only times are noted: spans are made of them in a thread, as finished `ReadableSpan`s. So a call that
isn't sampled costs the sampler's decision, and nothing else.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from importlib import metadata as packages
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grpc import StatusCode as StatusCodes
from opentelemetry import propagate
from opentelemetry.context import Context
from opentelemetry.sdk.environment_variables import (
    OTEL_EXPORTER_OTLP_PROTOCOL,
    OTEL_EXPORTER_OTLP_TRACES_PROTOCOL,
    OTEL_TRACES_SAMPLER,
)
from opentelemetry.sdk.trace import Event, ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import Decision, TraceIdRatioBased
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
    Link,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    get_current_span,
)

from layerserve_server.access.gate import Pairs
from layerserve_server.extensions.tracing.otel_variables import names
from layerserve_server.extensions.tracing.run_spans import RunSpan, attributes_of, events_of
from layerserve_server.observability.background import Background
from layerserve_server.training.events import Failed
from layerserve_server.transport.call import Trace

if TYPE_CHECKING:
    from layerserve_server.training.runs.run import Run

logger = logging.getLogger(__name__)

#: Maximum number of traces that wait to be made into spans.
MAX_WAITING = 4096
#: Time to export the last spans at shutdown, in seconds.
CLOSE_SECONDS = 3.0
#: Maximum number of links of a span.
MAX_LINKS = 128
#: Maximum number of batches of a request that have a span.
MAX_BATCHES = 128
#: Last digits of flags that don't have the lowest bit.
UNSAMPLED = frozenset("02468ace")
SCOPE = InstrumentationScope("layerserve_server", packages.version("layerserve"))
#: Statuses that are the server's fault (OpenTelemetry's conventions for gRPC servers).
FAULTS = frozenset({"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"})


class UnknownExporterError(ValueError):
    """OTEL_TRACES_EXPORTER names an exporter that isn't installed."""


def exporters(environment: Mapping[str, str]) -> list[SpanExporter]:
    """Returns the exporters that OTEL_TRACES_EXPORTER names, by default OTLP's. Raises UnknownExporterError."""
    installed = {found.name: found for found in packages.entry_points(group="opentelemetry_traces_exporter")}
    made = []
    for name in names(environment):
        protocol = environment.get(OTEL_EXPORTER_OTLP_TRACES_PROTOCOL) or environment.get(OTEL_EXPORTER_OTLP_PROTOCOL)
        if name == "otlp":
            name = "otlp_proto_http" if protocol == "http/protobuf" else "otlp_proto_grpc"
        if name not in installed:
            raise UnknownExporterError(
                f"OTEL_TRACES_EXPORTER: got '{name}', expected none or one of {', '.join(sorted(installed))}"
            )
        made.append(installed[name].load()())
    return made


class OpenTelemetryTracer:
    """Decides which calls are sampled, and exports their spans (see training.runs.tracer.Tracer)."""

    def __init__(
        self,
        environment: Mapping[str, str],
        exporters: Sequence[SpanExporter],
        dropped: Callable[[int], None] = lambda count: None,
    ) -> None:
        """`dropped` is called with the number of traces that found no room."""
        provider = TracerProvider(shutdown_on_exit=False)
        self._sampler = provider.sampler
        self._resource = provider.resource
        self.ids = provider.id_generator
        self._processors: list[Any] = [BatchSpanProcessor(exporter) for exporter in exporters]
        self._fields = propagate.get_global_textmap().fields
        #: Whether the caller's decision not to sample is final, as in the default and in all "parentbased_" samplers.
        self._follows_caller = environment.get(OTEL_TRACES_SAMPLER, "parentbased_").startswith("parentbased_")
        root = getattr(provider.sampler, "_root", provider.sampler)
        #: Calls without a parent are sampled if the lower half of their trace's id is below this; None if the sampler
        #: decides in another way.
        self._bound = root.bound if isinstance(root, TraceIdRatioBased) else None
        self._background: Background[Callable[[], Iterator[ReadableSpan]]] = Background(
            "traces", self._export, MAX_WAITING, dropped
        )

    def begin(self, name: str, metadata: Pairs, arrived: float) -> CallTrace | None:
        """Returns the trace of a call; None if it isn't sampled."""
        carrier = None
        for key, value in metadata:
            if key in self._fields and isinstance(value, str):
                # The lowest bit of the flags, which are last.
                if key == "traceparent" and value[-1:] in UNSAMPLED and self._follows_caller:
                    return None
                carrier = carrier or {}
                carrier[key] = value
        if carrier is None:
            # As the sampler decides, without its objects: this is the way of nearly all calls.
            trace_id = self.ids.generate_trace_id()
            if self._bound is not None and trace_id & TraceIdRatioBased.TRACE_ID_LIMIT >= self._bound:
                return None
            return self.start(name.removeprefix("/"), None, arrived, SpanKind.SERVER, _of_method(name), trace_id)
        context = propagate.extract(carrier, Context())
        return self.start(name.removeprefix("/"), context, arrived, SpanKind.SERVER, _of_method(name))

    def start(
        self,
        name: str,
        context: Context | None,
        began: float,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Mapping[str, Any] | None = None,
        trace_id: int = 0,
    ) -> CallTrace | None:
        """Returns the trace of something below the span in `context`; None if it isn't sampled.

        `trace_id` is the id of a new trace, if there is no such span; by default a random one.
        """
        parent = get_current_span(context).get_span_context() if context is not None else None
        if parent is not None and not parent.is_valid:
            parent = None
        trace_id = parent.trace_id if parent is not None else trace_id or self.ids.generate_trace_id()
        found = self._sampler.should_sample(context, trace_id, name, kind, attributes)
        if found.decision is not Decision.RECORD_AND_SAMPLE:
            return None
        state = found.trace_state or (parent.trace_state if parent is not None else None)
        own = SpanContext(trace_id, self.ids.generate_span_id(), False, TraceFlags(TraceFlags.SAMPLED), state)
        return CallTrace(self, name, own, parent, kind, began, {**(attributes or {}), **dict(found.attributes or {})})

    def run_variables(self, folder: Path) -> dict[str, str]:
        """Returns variables of a run's process (see training.runs.tracer.Tracer)."""
        span = RunSpan.read(folder)
        return {} if span is None else span.variables()

    def run_ended(self, run: Run) -> None:
        """Exports the span of a run, if it has one (see training.runs.tracer.Tracer)."""
        span = RunSpan.read(run.folder)
        if span is None:
            return
        own, parent = span.contexts()
        last = run.log.last
        status = Status(StatusCode.ERROR, last.reason) if isinstance(last, Failed) else None
        times = round(run.created_time * 1e9), time.time_ns()
        about, events = attributes_of(run), events_of(run)
        made = self.span(run.request.kind, own, parent, times, attributes=about, events=events, status=status)
        self.finished(lambda: iter([made]))

    def finished(self, make: Callable[[], Iterator[ReadableSpan]]) -> None:
        """Exports spans, which are made in another thread."""
        self._background.add(make)

    def span(
        self,
        name: str,
        context: SpanContext,
        parent: SpanContext | None,
        times: tuple[int, int],
        *,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Mapping[str, Any] | None = None,
        links: Sequence[SpanContext] = (),
        events: Sequence[Event] = (),
        status: Status | None = None,
    ) -> ReadableSpan:
        """Returns a finished span. `times` are Unix times of start and end, in nanoseconds."""
        return ReadableSpan(
            name,
            context,
            parent=parent,
            resource=self._resource,
            attributes=attributes,
            events=events,
            links=[Link(link) for link in links],
            kind=kind,
            status=status or Status(StatusCode.UNSET),
            start_time=times[0],
            end_time=max(times),
            instrumentation_scope=SCOPE,
        )

    def close(self) -> None:
        """Exports the spans that wait. Gives up after CLOSE_SECONDS: a collector that is away must not delay a stop."""
        self._background.close()
        threads = [threading.Thread(target=processor.shutdown, daemon=True) for processor in self._processors]
        for thread in threads:
            thread.start()
        end = time.monotonic() + CLOSE_SECONDS
        for thread in threads:
            thread.join(max(0.0, end - time.monotonic()))

    def flush(self) -> None:
        """Exports the spans that wait, in this thread."""
        self._background.flush()
        for processor in self._processors:
            processor.force_flush()

    def _export(self, traces: Sequence[Callable[[], Iterator[ReadableSpan]]]) -> None:
        for make in traces:
            for span in make():
                for processor in self._processors:
                    processor.on_end(span)


class CallTrace:
    """The trace of a call, or of a request of a stream (see transport.call.Trace)."""

    __slots__ = (
        "_attributes",
        "_batches",
        "_began",
        "_ended",
        "_kind",
        "_name",
        "_parent",
        "_tracer",
        "context",
        "queued",
    )

    def __init__(
        self,
        tracer: OpenTelemetryTracer,
        name: str,
        context: SpanContext,
        parent: SpanContext | None,
        kind: SpanKind,
        began: float,
        attributes: Mapping[str, Any],
    ) -> None:
        self._tracer = tracer
        self._name = name
        self.context = context
        self._parent = parent
        self._kind = kind
        self._began = began
        self._ended = False
        self._attributes = attributes
        self.queued: float | None = None
        #: When each was taken from the queue, began and ended; its rows, the traces of its requests, and its error.
        self._batches: list[tuple[float, float, float, int, Sequence[Trace], str]] = []

    @property
    def trace_id(self) -> str:
        """32 hexadecimal digits."""
        return f"{self.context.trace_id:032x}"

    def computed(
        self, taken: float, began: float, ended: float, rows: int, traces: Sequence[Trace], error: str = ""
    ) -> None:
        """Adds a batch (see transport.call.Trace)."""
        if len(self._batches) < MAX_BATCHES:
            self._batches.append((taken, began, ended, rows, traces, error))

    def request(self) -> CallTrace:
        """Returns the trace of one request of a stream."""
        context = self._child()
        return CallTrace(self._tracer, "request", context, self.context, SpanKind.INTERNAL, time.monotonic(), {})

    def begin_run(self, folder: Path, metadata: Pairs) -> None:
        """Begins the span of a run below this one (see transport.call.Trace)."""
        own = self.context
        RunSpan(
            traceparent=f"00-{own.trace_id:032x}-{self._tracer.ids.generate_span_id():016x}-01",
            parent=f"{own.span_id:016x}",
            tracestate=own.trace_state.to_header(),
            baggage=next((value for key, value in metadata if key == "baggage" and isinstance(value, str)), ""),
        ).write(folder)

    def end(self, model: str, version: str, status: str, **attributes: str) -> None:
        """Ends the trace, once."""
        if self._ended:
            return
        self._ended = True
        ended, offset = time.monotonic(), time.time_ns() - time.monotonic_ns()
        shown = {"layerserve.model": model, "layerserve.version": version, **attributes}
        about = {**self._attributes, **{name: value for name, value in shown.items() if value}}
        about["rpc.grpc.status_code"] = StatusCodes[status].value[0]
        self._tracer.finished(lambda: self._spans(ended, offset, about, status))

    def _spans(self, ended: float, offset: int, about: Mapping[str, Any], status: str) -> Iterator[ReadableSpan]:
        def times(start: float, stop: float) -> tuple[int, int]:
            return round(start * 1e9) + offset, round(stop * 1e9) + offset

        def stage(name: str, start: float, stop: float, **details: Any) -> ReadableSpan:
            return self._tracer.span(name, self._child(), self.context, times(start, stop), **details)

        batches, self._batches = self._batches, []
        first = batches[0] if batches else None
        if self.queued is not None:
            yield stage("decode", self._began, self.queued)
            yield stage("queue", self.queued, first[0] if first else ended)
        elif first is not None:
            # It didn't go through the queue: its arrays were read when its batch was formed.
            yield stage("queue", self._began, first[0])
            yield stage("decode", first[0], first[1])
        for _, began, stopped, rows, traces, error in batches:
            others = [trace.context for trace in traces if isinstance(trace, CallTrace)]
            shown = {"layerserve.batch_rows": rows, "layerserve.batch_traces": len(others)}
            # The text of an error may have values of a request, so only its class is shown.
            broken = {"error.type": error} if error else {}
            failure = Status(StatusCode.ERROR) if error else None
            yield stage(
                "compute", began, stopped, attributes={**shown, **broken}, links=others[:MAX_LINKS], status=failure
            )
        if batches and not batches[-1][5]:
            yield stage("encode", batches[-1][2], ended)
        failed = Status(StatusCode.ERROR) if status in FAULTS else None
        yield self._tracer.span(
            self._name,
            self.context,
            self._parent,
            times(self._began, ended),
            kind=self._kind,
            attributes=about,
            status=failed,
        )

    def _child(self) -> SpanContext:
        own = self.context
        return SpanContext(own.trace_id, self._tracer.ids.generate_span_id(), False, own.trace_flags, own.trace_state)


@lru_cache(1024)
def _of_method(method: str) -> dict[str, str]:
    service, _, name = method.removeprefix("/").rpartition("/")
    return {"rpc.system": "grpc", "rpc.service": service, "rpc.method": name}
