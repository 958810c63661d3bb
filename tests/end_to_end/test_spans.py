"""One trace from a device to the layers of the target: the same trace id on both sides, and instants that fit."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import pytest
import real_world
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, Sampler
from toy_world import VOCABULARY, ToyDrafter, continuation

from foredraft_cloud.spans import Spans
from foredraft_cloud.toy import ToyTarget
from foredraft_edge import Client
from foredraft_shared.errors import BackendMissing, UsageError
from foredraft_shared.messages import SamplingParams
from foredraft_shared.models import Model, Tokenizer
from foredraft_shared.otel import provider_from_environment

pytestmark = pytest.mark.timeout(60)

PROMPT = (3, 1, 4)


def provider(sampler: Sampler | None = None) -> tuple[TracerProvider, InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    made = TracerProvider(sampler=sampler)
    made.add_span_processor(SimpleSpanProcessor(exporter))
    return made, exporter


def write(tokenizer: Tokenizer, edge: TracerProvider | None, cloud: TracerProvider) -> tuple[int, ...]:
    target = ToyTarget(vocabulary=VOCABULARY, exits=(2, 4))
    with (
        real_world.serving(target, "zmq", fingerprint=tokenizer.fingerprint, observer=Spans(cloud)) as service,
        Client(None, ToyDrafter(0.8), tokenizer=tokenizer, transport=service.connect(), tracer_provider=edge) as client,
    ):
        return client.generate(PROMPT, max_tokens=16, draft_length=3, stop_tokens=()).tokens


def by_name(spans: tuple[ReadableSpan, ...]) -> dict[str, list[ReadableSpan]]:
    found = defaultdict(list)
    for span in spans:
        found[span.name].append(span)
    return found


def test_device_and_server_write_one_trace(smollm2: Model):
    edge, edge_spans = provider()
    cloud, cloud_spans = provider()
    assert write(smollm2.tokenizer, edge, cloud) == tuple(continuation(PROMPT, SamplingParams(), 16))
    device, server = by_name(edge_spans.get_finished_spans()), by_name(cloud_spans.get_finished_spans())
    (text,) = device["foredraft.generate"]
    assert text.context is not None
    everything = [span for found in (device, server) for spans in found.values() for span in spans]
    assert {span.context.trace_id for span in everything if span.context} == {text.context.trace_id}
    names = {span.context.span_id: span.name for span in everything if span.context}
    parents = {(names[span.parent.span_id], span.name) for span in everything if span.parent}
    assert parents >= {
        ("foredraft.generate", "foredraft.round"),
        ("foredraft.round", "foredraft.draft"),
        ("foredraft.round", "foredraft.wait"),
        ("foredraft.generate", "foredraft.verify"),
        ("foredraft.verify", "foredraft.queue"),
        ("foredraft.verify", "foredraft.pass"),
        ("foredraft.pass", "foredraft.layers"),
    }
    groups = {
        (span.attributes["foredraft.first_layer"], span.attributes["foredraft.last_layer"])
        for span in server["foredraft.layers"]
        if span.attributes
    }
    assert {(0, 2), (2, 4)} <= groups
    for span in everything:
        assert span.start_time is not None
        assert span.end_time is not None
        assert text.start_time is not None
        assert span.start_time <= span.end_time
        assert abs(span.start_time - text.start_time) < 60e9
    rounds = {span.attributes["foredraft.round"] for span in device["foredraft.round"] if span.attributes}
    verified = {span.attributes["foredraft.round"] for span in server["foredraft.verify"] if span.attributes}
    assert set() < verified <= rounds


def test_nobody_asked_so_nothing_is_made(smollm2: Model, monkeypatch: pytest.MonkeyPatch):
    for name in ("OTEL_TRACES_EXPORTER", "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    cloud, spans = provider()
    write(smollm2.tokenizer, None, cloud)
    assert spans.get_finished_spans() == ()


def test_a_trace_that_is_not_sampled_costs_the_server_no_spans(smollm2: Model):
    edge, edge_spans = provider(ALWAYS_OFF)
    cloud, cloud_spans = provider()
    write(smollm2.tokenizer, edge, cloud)
    assert (edge_spans.get_finished_spans(), cloud_spans.get_finished_spans()) == ((), ())


def test_the_standard_variables_turn_it_on_and_off(tmp_path: Path):
    assert provider_from_environment("s", {}) is None
    assert provider_from_environment("s", {"OTEL_TRACES_EXPORTER": "none"}) is None
    console = {"OTEL_TRACES_EXPORTER": "console"}
    assert provider_from_environment("s", {**console, "OTEL_SDK_DISABLED": "true"}) is None
    made = provider_from_environment("s", console)
    assert made is not None
    made.shutdown()
    with pytest.raises(UsageError, match="choose otlp, console or none"):
        provider_from_environment("s", {"OTEL_TRACES_EXPORTER": "zipkin"})
    with pytest.raises(UsageError, match="name another file"):
        provider_from_environment("s", {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"file://{tmp_path}/no/where"})


def test_otlp_without_its_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("importlib.metadata.entry_points", lambda **wanted: [])
    with pytest.raises(BackendMissing, match="pip install opentelemetry-exporter-otlp-proto-grpc"):
        provider_from_environment(
            "s", {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4317", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}
        )


def test_spans_in_a_file_are_lines_of_json(smollm2: Model, tmp_path: Path):
    path = tmp_path / "spans.jsonl"
    made = provider_from_environment("device", {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"file://{path}"})
    cloud, _ = provider()
    write(smollm2.tokenizer, made, cloud)
    assert made is not None
    made.shutdown()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert {"foredraft.generate", "foredraft.round"} <= {line["name"] for line in lines}
    assert lines[0]["resource"]["attributes"]["service.name"] == "device"
