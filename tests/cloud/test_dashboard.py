"""What is handed out for Prometheus and Grafana asks only for figures that the server has, and the document names them all."""

from __future__ import annotations

import json
import re
from pathlib import Path

from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from foredraft_cloud.metrics import PREFIX, ServerCollector, registry_of
from foredraft_cloud.options import EngineStatistics
from foredraft_cloud.tally import Tally
from foredraft_shared.transports.base import Counters

ROOT = Path(__file__).resolve().parents[2]


def families() -> dict[str, str]:
    """Name, as the document writes it, and type."""
    collector = ServerCollector(
        Tally(),
        model="m",
        dtype="d",
        health=lambda: "ready",
        cache_usage=lambda: 0.0,
        statistics=EngineStatistics(),
        wire=Counters(),
    )
    found = text_string_to_metric_families(generate_latest(registry_of(collector)).decode())
    return {
        family.name.removeprefix(PREFIX) + ("_total" if family.type == "counter" else ""): family.type
        for family in found
    }


def samples() -> set[str]:
    names: set[str] = set()
    for name, kind in families().items():
        endings = ("_bucket", "_sum", "_count") if kind == "histogram" else ("",)
        names |= {PREFIX + name + ending for ending in endings}
    return names


def asked(text: str) -> set[str]:
    return set(re.findall(rf"{PREFIX}[a-z0-9_]+", text))


def test_dashboard_and_alerts_ask_for_figures_that_exist():
    dashboard = json.loads((ROOT / "deploy" / "grafana.json").read_text())
    expressions = " ".join(target["expr"] for panel in dashboard["panels"] for target in panel["targets"])
    variables = " ".join(str(each["query"]) for each in dashboard["templating"]["list"])
    for text in (expressions, variables, (ROOT / "deploy" / "alerts.yml").read_text()):
        assert asked(text) <= samples()
    assert len(asked(expressions)) > 20


def test_the_document_names_every_figure():
    document = (ROOT / "docs" / "operating.md").read_text()
    document = document.replace("`…_draft_tokens_total`", "`spec_decode_num_draft_tokens_total`")
    document = document.replace("`…_accepted_tokens_total`", "`spec_decode_num_accepted_tokens_total`")
    named = set(re.findall(r"`([a-z0-9_]+)(?:\{[a-z_]+\})?`", document))
    assert set(families()) <= named, f"not in docs/operating.md: {sorted(set(families()) - named)}"
