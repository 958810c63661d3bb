"""What of a server can be seen from outside, put together: figures, health, the journal, spans."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from foredraft_shared.otel import provider_from_environment

from .journal import Journal
from .observer import Observer, Together
from .tally import Tally

if TYPE_CHECKING:
    from .metrics_server import MetricsServer
    from .server import Server

__all__ = ["Watch"]


class Watch:
    """Made before the model is loaded, so that a port in use is known at once; then :meth:`show` what there is to see.

    Args:
        metrics: ``HOST:PORT`` for ``/metrics`` and ``/health``, or ``None`` for none.
        folder: of the server's keys.

    Raises:
        UsageError, AddressInUse: see :class:`~foredraft_cloud.metrics_server.MetricsServer`.
        UsageError, BackendMissing: see :func:`~foredraft_shared.otel.provider_from_environment`.
    """

    def __init__(self, metrics: str | None, folder: Path) -> None:
        self._traces = provider_from_environment("foredraft-cloud")
        self.http: MetricsServer | None = None
        self._tally = Tally()
        observers: list[Observer] = [Journal()]
        if metrics is not None:
            from .metrics_server import MetricsServer  # nobody else needs it

            self.http = MetricsServer(metrics, folder)
            observers.append(self._tally)
        if self._traces is not None:
            from .spans import Spans

            observers.append(Spans(self._traces))
        self.observer: Observer = Together(observers)

    def show(self, server: Server) -> None:
        """From now on tell of this server."""
        if self.http is None:
            return
        from .metrics import ServerCollector, registry_of

        welcome = server.welcome
        collector = ServerCollector(
            self._tally,
            model=welcome.model,
            dtype=welcome.dtype,
            health=lambda: server.health,
            cache_usage=lambda: server.cache_usage,
            statistics=server.statistics,
            wire=server.wire,
        )
        self.http.show(
            registry_of(collector),
            lambda: {"status": server.health, "model": welcome.model, "sessions": self._tally.sessions},
        )

    def close(self) -> None:
        """Stop answering."""
        if self.http is not None:
            self.http.close()
        if self._traces is not None:
            self._traces.shutdown()
