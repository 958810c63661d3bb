"""A text as OpenTelemetry sees it: generate → round → draft and wait, made from the records of its rounds.

Records are complete when a round is over, so spans are made then, with the instants that stand in them: while the device
drafts, nothing is spent on them. The server's spans hang below ``foredraft.generate`` by the ``traceparent`` that Open and
Resume carry; which round they belong to stands in their attributes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING

from typing_extensions import Self

from foredraft_shared.otel import unix_ns_at_zero
from foredraft_shared.traces import RoundRecord

if TYPE_CHECKING:
    from opentelemetry.trace import Span, TracerProvider

__all__ = ["TextSpans"]

TRACER = "foredraft.edge"


class TextSpans:
    """The spans of one text; its span begins now, below whatever span is current here.

    Args:
        epoch_ns: the instant of ``time.perf_counter_ns`` that records count from.
        attributes: of the text's span.
    """

    def __init__(self, provider: TracerProvider, epoch_ns: int, attributes: Mapping[str, str]) -> None:
        from opentelemetry import trace

        self._trace = trace
        self._tracer = provider.get_tracer(TRACER)
        self._zero_ns = unix_ns_at_zero() + epoch_ns
        self._text = self._tracer.start_span(
            "foredraft.generate", kind=trace.SpanKind.CLIENT, attributes=dict(attributes)
        )
        context = self._text.get_span_context()
        self.traceparent = f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"
        """W3C trace context for the server."""

    def observing(self, observe: Callable[[RoundRecord], None] | None) -> Callable[[RoundRecord], None]:
        """What is to be told of each round: these spans, and ``observe`` as well."""
        if observe is None:
            return self.round
        other = observe

        def both(record: RoundRecord) -> None:
            other(record)
            self.round(record)

        return both

    def round(self, record: RoundRecord) -> None:
        """A round is over."""
        instants = [record.draft_began_at_us, record.sent_at_us, record.verdict_at_us, record.committed_at_us]
        known = [instant for instant in instants if instant is not None]
        if not known or not self._text.is_recording():
            return
        span = self._begin(self._text, "foredraft.round", min(known))
        for name in (
            "session",
            "round",
            "kind",
            "base",
            "drafted",
            "committed",
            "chained",
            "decision",
            "ready",
            "discarded",
        ):
            span.set_attribute(f"foredraft.{name}", getattr(record, name))
        for name in ("accepted", "guess_hit", "cloud_queued_us", "cloud_computed_us"):
            if (value := getattr(record, name)) is not None:
                span.set_attribute(f"foredraft.{name}", value)
        for hint in record.hints:
            told = {"foredraft.exit_layer": hint.exit_layer, "foredraft.confidence": hint.confidence}
            span.add_event("foredraft.hint", told, self._at(hint.at_us))
        if record.draft_began_at_us is not None and record.draft_ended_at_us is not None:
            drafting = self._begin(span, "foredraft.draft", record.draft_began_at_us)
            drafting.end(self._at(max(record.draft_began_at_us, record.draft_ended_at_us)))
        if record.sent_at_us is not None and record.verdict_at_us is not None:
            waiting = self._begin(span, "foredraft.wait", record.sent_at_us)
            waiting.end(self._at(record.verdict_at_us))
        span.end(self._at(max(known)))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """The text is over, or given up for that reason."""
        if error is not None and not isinstance(error, GeneratorExit):
            self._text.set_status(self._trace.StatusCode.ERROR, f"{type(error).__name__}: {error}")
        self._text.end(time.time_ns())

    def _begin(self, parent: Span, name: str, at_us: int) -> Span:
        context = self._trace.set_span_in_context(parent)
        return self._tracer.start_span(name, context, start_time=self._at(at_us))

    def _at(self, instant_us: int) -> int:
        return self._zero_ns + instant_us * 1000
