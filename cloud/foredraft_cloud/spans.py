"""The server's part of a device's trace: verify → queue and pass → layers between exits.

An :class:`Observer`: when a pass is over, each session in it whose Open or Resume carried a sampled ``traceparent`` gets its
spans, below the device's own. Sessions without one cost a look at an empty string.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from foredraft_shared.messages import SessionId
from foredraft_shared.otel import unix_ns_at_zero

from .observer import Closing, PassSeen, Share, Unobserved
from .sessions import Session

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span, TracerProvider

__all__ = ["Spans"]

TRACER = "foredraft.cloud"


class Spans(Unobserved):
    """See the module; the engine's clock is ``time.perf_counter_ns``."""

    def __init__(self, provider: TracerProvider) -> None:
        from opentelemetry import trace
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._trace = trace
        self._tracer = provider.get_tracer(TRACER)
        self._propagator = TraceContextTextMapPropagator()
        self._zero_ns = unix_ns_at_zero()
        self._parents: dict[SessionId, tuple[str, Context | None]] = {}
        """The device's span, with the words that named it; ``None``: not sampled, or not a traceparent."""

    def closed(self, session: Session, why: Closing) -> None:
        """Forget its parent."""
        self._parents.pop(session.ledger.session, None)

    def passed(self, seen: PassSeen) -> None:
        """Make the spans of a pass, for each session that has a parent."""
        for share in seen.shares:
            if share.session.traceparent:
                parent = self._parent(share.session)
                if parent is not None:
                    self._spans(share, seen, parent)

    def _parent(self, session: Session) -> Context | None:
        known = self._parents.get(session.ledger.session)
        if known is None or known[0] != session.traceparent:
            context = self._propagator.extract({"traceparent": session.traceparent})
            sampled = self._trace.get_current_span(context).get_span_context().trace_flags.sampled
            known = self._parents[session.ledger.session] = (session.traceparent, context if sampled else None)
        return known[1]

    def _spans(self, share: Share, seen: PassSeen, parent: Context) -> None:
        round_, verdict = share.round, share.verdict
        attributes: dict[str, str | int] = {
            "foredraft.session": share.session.ledger.session.hex()[:8],
            "foredraft.rows": len(share.run.tokens),
        }
        if round_ is None or verdict is None:  # a piece of a prompt, or a round that this pass did not settle
            name = "foredraft.verify" if share.verifies else "foredraft.read"
            begun = self._at(seen.begun_ns)
            unsettled = self._tracer.start_span(name, parent, self._trace.SpanKind.SERVER, attributes, start_time=begun)
            self._pass(unsettled, seen)
            unsettled.end(self._at(seen.ended_ns))
            return
        attributes |= {
            "foredraft.round": verdict.round,
            "foredraft.drafted": len(round_.draft),
            "foredraft.accepted": verdict.accepted,
            "foredraft.committed": share.committed,
        }
        arrived_ns = min(seen.begun_ns, seen.ended_ns - (verdict.timing.queued_us + verdict.timing.computed_us) * 1000)
        verify = self._tracer.start_span(
            "foredraft.verify", parent, self._trace.SpanKind.SERVER, attributes, start_time=self._at(arrived_ns)
        )
        below = self._trace.set_span_in_context(verify)
        queue = self._tracer.start_span("foredraft.queue", below, start_time=self._at(arrived_ns))
        queue.end(self._at(seen.begun_ns))
        self._pass(verify, seen)
        verify.end(self._at(seen.ended_ns))

    def _pass(self, parent: Span, seen: PassSeen) -> None:
        attributes = {"foredraft.pass_rows": seen.rows, "foredraft.pass_sessions": len(seen.shares)}
        below = self._trace.set_span_in_context(parent)
        whole = self._tracer.start_span(
            "foredraft.pass", below, attributes=attributes, start_time=self._at(seen.begun_ns)
        )
        inside = self._trace.set_span_in_context(whole)
        first = 0
        for layer, begun_ns, ended_ns in seen.steps:
            layers = {"foredraft.first_layer": first, "foredraft.last_layer": layer}
            step = self._tracer.start_span("foredraft.layers", inside, attributes=layers, start_time=self._at(begun_ns))
            step.end(self._at(ended_ns))
            first = layer
        whole.end(self._at(seen.ended_ns))

    def _at(self, clock_ns: int) -> int:
        return self._zero_ns + clock_ns
