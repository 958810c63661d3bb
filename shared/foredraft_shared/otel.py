"""OpenTelemetry, when the standard variables ask for it, and otherwise nothing: not even an import.

``OTEL_EXPORTER_OTLP_ENDPOINT`` (or ``…_TRACES_ENDPOINT``) or ``OTEL_TRACES_EXPORTER`` turns it on, ``OTEL_SDK_DISABLED=true``
or the exporter ``none`` off. Exporters: ``otlp``, which needs its own package; ``console``, a line of JSON a span on standard
error; and the traces endpoint ``file:///PATH``, the same lines in a file. Sampling, service name and resource attributes are
the SDK's own variables. A program that has a provider hands it in, and none of this is looked at.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from .errors import BackendMissing, UsageError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter

__all__ = ["provider_from_environment", "unix_ns_at_zero"]

_GROUP = "opentelemetry_traces_exporter"


def provider_from_environment(service: str, environment: Mapping[str, str] | None = None) -> TracerProvider | None:
    """A provider of tracers, to be shut down by the caller; ``None`` if nobody asked.

    Args:
        service: what it is called, unless OTEL_SERVICE_NAME says otherwise.
        environment: in place of the process's own.

    Raises:
        BackendMissing: it was asked for, and a package is missing.
        UsageError: an exporter is named that does not exist here, or its file cannot be written.
    """
    given = os.environ if environment is None else environment

    def said(name: str) -> str:
        return given.get(name, "").strip()

    wanted = said("OTEL_TRACES_EXPORTER").lower()
    endpoint = said("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") or said("OTEL_EXPORTER_OTLP_ENDPOINT")
    if said("OTEL_SDK_DISABLED").lower() == "true" or wanted == "none" or not (wanted or endpoint):
        return None
    try:
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        raise BackendMissing(
            "OTEL_* variables ask for traces, which need the SDK: pip install 'foredraft[otel]', or set "
            "OTEL_SDK_DISABLED=true."
        ) from None
    protocol = said("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or said("OTEL_EXPORTER_OTLP_PROTOCOL") or "http/protobuf"
    exporter = _exporter(wanted or "otlp", endpoint, protocol)
    resource = Resource.create({SERVICE_NAME: said("OTEL_SERVICE_NAME") or service})
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider


def unix_ns_at_zero() -> int:
    """The wall clock's reading when ``time.perf_counter_ns`` was 0: spans tell the time of day, everything else does not."""
    return time.time_ns() - time.perf_counter_ns()


def _exporter(wanted: str, endpoint: str, protocol: str) -> SpanExporter:
    from opentelemetry.sdk.trace.export import ConsoleSpanExporter

    if wanted == "console":
        return ConsoleSpanExporter(out=sys.stderr, formatter=_line)
    if wanted != "otlp":
        raise UsageError(f"OTEL_TRACES_EXPORTER is {wanted!r}; choose otlp, console or none.")
    if endpoint.startswith("file:"):
        path = Path(unquote(urlsplit(endpoint).path))
        try:
            return _to_file(path)
        except OSError as error:
            raise UsageError(f"cannot write spans to {path}: {error.strerror}; name another file.") from None
    name = "otlp_proto_grpc" if protocol == "grpc" else "otlp_proto_http"
    found = list(metadata.entry_points(group=_GROUP, name=name))
    if not found:
        package = f"opentelemetry-exporter-{name.replace('_', '-')}"
        raise BackendMissing(
            f"exporting spans over OTLP needs a package: pip install {package}; or set OTEL_TRACES_EXPORTER=console, or a "
            "file:///PATH as OTEL_EXPORTER_OTLP_TRACES_ENDPOINT."
        )
    exporter: SpanExporter = found[0].load()()
    return exporter


def _line(span: ReadableSpan) -> str:
    return f"{span.to_json(indent=None)}\n"


def _to_file(path: Path) -> SpanExporter:
    from opentelemetry.sdk.trace.export import ConsoleSpanExporter

    file = path.open("a", encoding="utf-8")

    class FileExporter(ConsoleSpanExporter):
        """Closes its file."""

        def shutdown(self) -> None:
            file.close()

    return FileExporter(out=file, formatter=_line)
