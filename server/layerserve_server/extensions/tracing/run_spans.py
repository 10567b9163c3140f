"""The span of a training run: its identity is in the run's folder, so that any server that ends the run exports it."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opentelemetry.sdk.trace import Event
from opentelemetry.trace import SpanContext, TraceFlags, TraceState

from layerserve_server.disk import replace_file
from layerserve_server.records import checked, log_damaged, read_object
from layerserve_server.training import events

if TYPE_CHECKING:
    from layerserve_server.training.runs.run import Run

logger = logging.getLogger(__name__)

#: Name of the file in the run's folder.
FILE = "trace.json"
#: Maximum number of epochs in a span; of longer runs, the last ones.
MAX_EPOCHS = 128

_SPAN_ID = re.compile("[0-9a-f]{16}")
_TRACEPARENT = re.compile(f"00-[0-9a-f]{{32}}-{_SPAN_ID.pattern}-01")


@dataclass(frozen=True)
class RunSpan:
    """The identity of a run's span: its W3C headers, and the id of the span of its call, `parent`."""

    traceparent: str
    parent: str
    tracestate: str = ""
    baggage: str = ""

    def write(self, folder: Path) -> None:
        """Writes it into the run's folder. A run without it isn't traced."""
        try:
            replace_file(folder / FILE, json.dumps(asdict(self)))
        except OSError as error:
            logger.warning("the run has no trace: %s", error.strerror)

    @classmethod
    def read(cls, folder: Path) -> RunSpan | None:
        """Reads it from the run's folder; None if the run isn't traced, or the file is damaged, which is logged."""
        found = read_object(folder / FILE)
        if not found:
            return None
        try:
            span = checked(cls(**found))
            if not (_TRACEPARENT.fullmatch(span.traceparent) and _SPAN_ID.fullmatch(span.parent)):
                raise ValueError(f"got {span.traceparent[:80]!r} and {span.parent[:80]!r}, expected ids of spans")
            for header in (span.tracestate, span.baggage):
                if not (header.isascii() and header.isprintable()):
                    raise ValueError(f"got {header[:80]!r}, expected a header")
        except (ValueError, TypeError) as error:
            log_damaged(folder / FILE, error)
            return None
        return span

    def variables(self) -> dict[str, str]:
        """Returns the variables by which a process gets the span that it belongs to."""
        headers = {"TRACEPARENT": self.traceparent, "TRACESTATE": self.tracestate, "BAGGAGE": self.baggage}
        return {name: header for name, header in headers.items() if header}

    def contexts(self) -> tuple[SpanContext, SpanContext]:
        """Returns the contexts of the span, and of its parent."""
        _, trace_id, span_id, _ = self.traceparent.split("-")
        state, flags = TraceState.from_header([self.tracestate]), TraceFlags(TraceFlags.SAMPLED)
        own, parent = (
            SpanContext(int(trace_id, 16), int(one, 16), False, flags, state) for one in (span_id, self.parent)
        )
        return own, parent


def attributes_of(run: Run) -> Mapping[str, str]:
    """Returns the attributes of the span of a run that has ended."""
    attributes = {
        "layerserve.run": run.id,
        "layerserve.model": run.request.model,
        "layerserve.version": str(run.request.version),
        "layerserve.state": run.state.value,
    }
    last = run.log.last
    if isinstance(last, events.Finished) and last.version:
        attributes["layerserve.published_version"] = str(last.version)
    return attributes


def events_of(run: Run) -> Sequence[Event]:
    """Returns the events of a run's span: its epochs, and when it was queued, started and resumed."""
    happened = []
    for event in run.log.copy():
        what, attributes = event.what, dict[str, Any]()
        if isinstance(what, events.Epoch):
            attributes = {"epoch": what.epoch, **what.logs}
        elif not isinstance(what, (events.Queued, events.Started, events.Resumed)):
            continue
        happened.append(Event(type(what).__name__.lower(), attributes, round(event.time * 1e9)))
    return happened[-MAX_EPOCHS:]
