"""The server's figures in the words of Prometheus.

Whoever watches a fleet of vLLM servers has dashboards and alerts. Names and buckets of the figures that both have are
therefore vLLM's, with its label ``model_name`` and ``foredraft:`` in place of ``vllm:``; replacing that one word adapts a
dashboard. (Prometheus keeps colons for recording rules; that convention is given up here as it is there.) What only this
server has stands under the same prefix. ``docs/operating.md`` says what each means.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector, CollectorRegistry

from foredraft_shared.transports.base import Counters
from foredraft_shared.version import version

from .observer import Closing, Opening
from .options import EngineStatistics
from .tally import Histogram, Tally

__all__ = ["PREFIX", "ServerCollector", "registry_of"]

PREFIX = "foredraft:"
_RESUMES: tuple[Opening, ...] = ("cache", "prefill")
_CLOSINGS: tuple[Closing, ...] = ("closed", "revoked", "evicted", "expired")
_STATES = ("ready", "draining", "failed")


class ServerCollector(Collector):
    """Reads a tally when it is asked to, on the caller's thread.

    Args:
        model: as the label ``model_name``.
        dtype: of the target.
        health: the server's state.
        cache_usage: share of the cache in use, 0 to 1.
        statistics: the engine's own counts.
        wire: what went over the token plane.
    """

    def __init__(
        self,
        tally: Tally,
        *,
        model: str,
        dtype: str,
        health: Callable[[], str],
        cache_usage: Callable[[], float],
        statistics: EngineStatistics,
        wire: Counters,
    ) -> None:
        self._tally = tally
        self._model = model
        self._dtype = dtype
        self._health = health
        self._cache_usage = cache_usage
        self._statistics = statistics
        self._wire = wire

    def collect(self) -> Iterator[Metric]:
        """Every figure, as it is now."""
        yield from self._as_vllm_says_it()
        yield from self._sessions()
        yield from self._rounds()
        yield from self._passes()

    def _as_vllm_says_it(self) -> Iterator[Metric]:
        tally = self._tally
        yield self._histogram("time_to_first_token_seconds", "From Open to the first token.", tally.first_token)
        yield self._histogram(
            "inter_token_latency_seconds", "From each token to the next; 0 within a commit.", tally.between_tokens
        )
        yield self._histogram("e2e_request_latency_seconds", "From Open to the last token.", tally.text)
        waiting = tally.waiting
        yield self._gauge(
            "num_requests_running", "Texts under way that do not wait for a pass.", max(0, tally.unfinished - waiting)
        )
        yield self._gauge("num_requests_waiting", "Texts that found no room in the latest pass.", waiting)
        yield self._gauge("kv_cache_usage_perc", "Share of the cache in use; 1 is all of it.", self._cache_usage())
        yield self._counter("prompt_tokens", "Tokens of prompts.", tally.prompt_tokens)
        yield self._counter("generation_tokens", "Tokens committed.", tally.tokens.total())
        ended = {**dict.fromkeys(("stop", "length", "abort"), 0), **tally.finished}
        yield self._counters("request_success", "Texts, by how they ended.", "finished_reason", ended)
        yield self._counter("spec_decode_num_drafts", "Drafts verified.", tally.drafts)
        yield self._counter("spec_decode_num_draft_tokens", "Drafted tokens verified.", tally.drafted)
        yield self._counter("spec_decode_num_accepted_tokens", "Drafted tokens accepted.", tally.accepted)

    def _sessions(self) -> Iterator[Metric]:
        tally = self._tally
        yield self._gauge("sessions_open", "Sessions held for devices.", tally.sessions)
        known = self._statistics
        yield self._gauge("sessions_parked", "Sessions whose devices are silent; their texts are kept.", known.parked)
        yield self._gauge("kv_cache_used_bytes", "Cache that sessions hold.", known.cache_used_bytes)
        yield self._gauge("kv_cache_limit_bytes", "Cache there is; never exceeded.", known.cache_limit_bytes)
        yield self._counter("kv_cache_evictions", "Times a session's cache was given to others.", known.evictions)
        yield self._counter("kv_cache_rebuilds", "Of those, texts read again when they came back.", known.rebuilds)
        yield self._counter("prefix_cache_hits", "Tokens found in the cache, not read again.", known.prefix_tokens)
        yield self._counter("sessions_opened", "New sessions.", tally.opened_by["open"])
        resumed: dict[str, float] = {kind: tally.opened_by[kind] for kind in _RESUMES}
        yield self._counters("session_resumes", "Sessions taken up again, by what it took.", "kind", resumed)
        yield self._counter("reread_tokens", "Tokens of resumed texts that had to be read again.", tally.reread_tokens)
        closed: dict[str, float] = {why: tally.closed_by[why] for why in _CLOSINGS}
        yield self._counters("sessions_closed", "Sessions whose room was given back, by why.", "why", closed)
        yield self._counters("refusals", "Failures answered to devices, by code.", "code", dict(tally.refusals))
        for what, value in (("received", self._wire.bytes_received), ("sent", self._wire.bytes_sent)):
            yield self._counter(f"token_plane_{what}_bytes", f"Bytes {what} on the token plane.", value)
        state = self._health()
        states = {each: int(each == state) for each in _STATES}
        yield self._labelled(GaugeMetricFamily, "server_state", "1 for the state it is in.", "state", states)
        about = GaugeMetricFamily(
            PREFIX + "server_info", "What this server is.", labels=("model_name", "dtype", "version")
        )
        about.add_metric((self._model, self._dtype, version()), 1)
        yield about

    def _rounds(self) -> Iterator[Metric]:
        tally = self._tally
        origins = {**dict.fromkeys(("target", "edge", "exit"), 0), **tally.tokens}
        yield self._counters("tokens", "Tokens committed, by who vouches for them.", "origin", origins)
        sent = {str(layer): count for layer, count in sorted(dict(tally.hints).items())}
        right = {str(layer): count for layer, count in sorted(dict(tally.hints_confirmed).items())}
        yield self._counters("hints_sent", "Hints, by exit layer.", "exit_layer", sent)
        yield self._counters("hints_confirmed", "Hints that the verdict bore out, by exit layer.", "exit_layer", right)
        yield self._counter("chained_rounds_received", "Drafts that came before their base was known.", tally.chained)
        yield self._counter("chained_rounds_hit", "Of those, drafts whose assumption came true.", tally.chained_hits)
        yield self._histogram("round_queue_seconds", "A round's waiting for its pass.", tally.round_queue)
        yield self._histogram(
            "link_round_trip_seconds", "Both ways of the link, as devices report it.", tally.link_round_trip
        )

    def _passes(self) -> Iterator[Metric]:
        tally = self._tally
        yield self._histogram("pass_seconds", "A pass, choosing and answering included.", tally.pass_time)
        yield self._histogram("pass_rows", "Rows of a pass.", tally.pass_rows)
        yield self._histogram("pass_sessions", "Sessions with rows in a pass.", tally.pass_sessions)
        known = self._statistics
        yield self._counter("rows_dropped", "Rows not taken to full depth.", known.rows_dropped)
        yield self._counter("rounds_passed_twice", "Rounds of which rows were wrongly dropped.", known.dropped_wrongly)
        yield self._counter("rounds_cancelled", "Sessions closed or resumed in the middle of a pass.", known.cancelled)
        yield self._counter("gather_pauses", "Times a pass waited for rounds about to come.", known.gathered)
        yield self._counter("model_seconds", "Time in the target.", tally.model_s)
        yield self._counter("outside_model_seconds", "Time of passes outside the target.", tally.outside_s)

    # --- families

    def _gauge(self, name: str, help_: str, value: float) -> Metric:
        family = GaugeMetricFamily(PREFIX + name, help_, labels=("model_name",))
        family.add_metric((self._model,), value)
        return family

    def _counter(self, name: str, help_: str, value: float) -> Metric:
        family = CounterMetricFamily(PREFIX + name, help_, labels=("model_name",))
        family.add_metric((self._model,), value)
        return family

    def _counters(self, name: str, help_: str, label: str, values: Mapping[str, float]) -> Metric:
        return self._labelled(CounterMetricFamily, name, help_, label, values)

    def _labelled(
        self,
        kind: type[CounterMetricFamily] | type[GaugeMetricFamily],
        name: str,
        help_: str,
        label: str,
        values: Mapping[str, float],
    ) -> Metric:
        family = kind(PREFIX + name, help_, labels=("model_name", label))
        for value, count in values.items():
            family.add_metric((self._model, value), count)
        return family

    def _histogram(self, name: str, help_: str, histogram: Histogram) -> Metric:
        family = HistogramMetricFamily(PREFIX + name, help_, labels=("model_name",))
        buckets: list[tuple[str, float]] = []
        below = 0
        bounds = (*(str(float(bound)) for bound in histogram.bounds), "+Inf")
        for bound, count in zip(bounds, tuple(histogram.counts), strict=True):
            below += count
            buckets.append((bound, below))
        family.add_metric((self._model,), buckets, histogram.total)
        return family


def registry_of(collector: Collector) -> CollectorRegistry:
    """A registry of this collector alone: nothing here is shared by the process."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    return registry
