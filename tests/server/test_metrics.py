"""Metrics are documented by name, and of names that are served."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from manylora.metrics.server import PREFIX
from manylora.server.routes import completions

from .live import Live
from .test_adapters import load

PAGE = Path(__file__).parents[2] / "docs" / "server.md"


def families(live: Live) -> dict[str, str]:
    """Full name, as a query spells it -> type, of every metric the server has, once a model has been asked."""
    live.post("/v1/completions", {"model": "acme", "prompt": "x", "max_tokens": 1})
    live.post("/v1/completions", {"model": "nobody", "prompt": "x"})
    with live.client() as client:
        text = client.get("/metrics").text
    return {
        family.name.removeprefix(PREFIX) + ("_total" if family.type == "counter" else ""): family.type
        for family in text_string_to_metric_families(text)
        if not family.name.endswith("_created")  # when a counter began; Prometheus' client library adds it to each
    }


def test_the_page_and_the_server_have_the_same_metrics(live: Live) -> None:
    """Every metric that docs/server.md names exists under that very name, and every one that exists is on the page."""
    section = PAGE.read_text(encoding="utf-8").split("## Metrics")[1].split("\n## ")[0]
    cells = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    named = {name for cell in cells for name in re.findall(r"`([a-z0-9_]+)`", cell)}
    assert named == set(families(live))


def test_a_name_removed_before_its_answer_has_no_series(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request whose adapter name goes while it is prepared is answered, and brings no series of that name back."""
    assert load(live, "brief", "late").status_code == 200
    echo = completions._echo

    def removed_meanwhile(*arguments: object) -> object:
        live.call(lambda: live.service.lifecycle.unload("brief"))
        live.call(lambda: live.service.metrics.forget("brief"))
        return echo(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(completions, "_echo", removed_meanwhile)
    answer = live.post("/v1/completions", {"model": "brief", "prompt": "x", "max_tokens": 2, "echo": True})
    assert answer.status_code == 200
    with live.client() as client:
        assert 'model_name="brief"' not in client.get("/metrics").text
